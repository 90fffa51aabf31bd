"""HTTP client of the sandbox gateway. It verifies every answer.

Raises `PaymentGatewayError` for an answer that is about a different payment, order or amount than the
request, that contradicts itself, or that cannot be interpreted. Raises only the exceptions of
`PaymentGateway`, except for cancellation.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from shop.payments.errors import (
    BAD_ANSWER,
    PaymentDeclined,
    PaymentError,
    PaymentGatewayError,
    PaymentGatewayTimeout,
    PaymentLapsed,
)
from shop.payments.gateway import GatewayTotals, Payment, PaymentStatus, Refund
from shop.payments.sandbox.records import MAY_PASS, CurrencyTotals, Page, PaymentRecord, RefundRecord
from shop.text.sanitize import printable
from shop.values.money import from_minor, to_minor

_PAYMENT, _REFUND, _PAGE = TypeAdapter(PaymentRecord), TypeAdapter(RefundRecord), TypeAdapter(Page)
_TOTALS = TypeAdapter(tuple[CurrencyTotals, ...])
_ERROR = TypeAdapter(dict[str, dict[str, Any]])

_MOST_BYTES = 8_000_000
"""Limits the size of an answer; valid ones are smaller."""
_PAGE_SIZE = 500
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_CODE = re.compile(r"[a-z0-9_]{1,64}")

T = TypeVar("T")


class _SingleConnectionPools(httpx.AsyncBaseTransport):
    """Connection pool in which a connection serves one request at a time, and is closed if that request
    fails.

    httpx's own pool checks every connection for every request, and lets several requests wait for the same
    one: with 50 connections it used four times the CPU, and under load some requests waited for more than 5
    s. Therefore each connection has a pool of its own.
    """

    def __init__(self, url: str) -> None:
        # Loading the certificates takes 100 ms in each process, and is needed for https only.
        self._verify = False if url.startswith("http:") else httpx.create_ssl_context(trust_env=False)
        self._idle: list[httpx.AsyncHTTPTransport] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        connection = self._idle.pop() if self._idle else self._new()
        try:
            answer = await _read_body(await connection.handle_async_request(request))
        except BaseException:
            with suppress(Exception):
                await connection.aclose()
            raise
        self._idle.append(connection)
        return answer

    def _new(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(
            verify=self._verify, trust_env=False, limits=httpx.Limits(max_connections=1, keepalive_expiry=5)
        )

    async def aclose(self) -> None:
        while self._idle:
            await self._idle.pop().aclose()


async def _read_body(response: httpx.Response) -> httpx.Response:
    """Returns the response's status and whole body, without its headers."""
    try:
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            _expect(len(body) <= _MOST_BYTES, "with a body that is too large")
        return httpx.Response(response.status_code, content=bytes(body))
    finally:
        await response.aclose()


@dataclass(frozen=True, slots=True)
class _Pool:
    loop: asyncio.AbstractEventLoop
    client: httpx.AsyncClient
    free: asyncio.Semaphore


class SandboxGateway:
    """A `GatewayClient` with a pool of at most `concurrency` connections, created in the event loop that
    first needs it.

    `timeout_seconds` limits each call, without the wait for a free connection. Like a timeout, any retryable
    error may have moved money: an error 500 or a broken connection can follow the charge.
    """

    def __init__(self, url: str, timeout_seconds: float, concurrency: int) -> None:
        self._url, self._timeout, self._concurrency = url, timeout_seconds, concurrency
        self._pool: _Pool | None = None

    async def create(
        self,
        *,
        order_id: str,
        amount: Decimal,
        currency: str,
        method: str,
        card_last4: str | None,
        token: str | None,
        key: str,
        installation: str | None = None,
    ) -> Payment:
        units = minor_units(amount, currency)
        body = {
            "order_id": order_id,
            "amount": units,
            "currency": currency,
            "method": method,
            "card_last4": card_last4,
            "token": token,
            "installation": installation,
        }
        payment = _consistent(await self._post("/v1/payments", _PAYMENT, key, body))
        created = (payment.order_id, payment.amount, payment.currency, payment.installation)
        _expect(created == (order_id, units, currency, installation), "another payment than was created")
        return to_payment(payment)

    async def confirm(self, payment_id: str, *, key: str) -> Payment:
        payment = _consistent(
            await self._post(f"/v1/payments/{_path_part(payment_id)}/confirm", _PAYMENT, key)
        )
        _expect(payment.id == payment_id, "another payment than was confirmed")
        _expect(payment.status is PaymentStatus.SUCCEEDED, "neither a charge nor a refusal")
        return to_payment(payment)

    async def get(self, payment_id: str) -> Payment:
        payment = _consistent(await self._get(f"/v1/payments/{_path_part(payment_id)}", _PAYMENT))
        _expect(payment.id == payment_id, "another payment than was asked for")
        return to_payment(payment)

    async def find(self, order_id: str, *, installation: str | None = None) -> list[Payment]:
        query = {"order_id": order_id} | ({"installation": installation} if installation is not None else {})
        page = await self._get("/v1/payments", _PAGE, query)
        _expect(not page.has_more, "a part of the order's payments only")
        _expect(all(payment.order_id == order_id for payment in page.data), "another order's payments")
        _expect(len({payment.id for payment in page.data}) == len(page.data), "a payment twice")
        return [
            to_payment(_consistent(payment)) for payment in page.data if payment.installation == installation
        ]

    async def cancel(self, payment_id: str, *, key: str) -> Payment:
        payment = _consistent(
            await self._post(f"/v1/payments/{_path_part(payment_id)}/cancel", _PAYMENT, key)
        )
        _expect(payment.id == payment_id, "another payment than was cancelled")
        _expect(payment.status is not PaymentStatus.CREATED, "a payment that can still be charged")
        return to_payment(payment)

    async def refund(self, payment_id: str, *, amount: Decimal, currency: str, key: str) -> Refund:
        units = minor_units(amount, currency)
        body = {"payment_id": _path_part(payment_id), "amount": units, "currency": currency}
        refund = await self._post("/v1/refunds", _REFUND, key, body)
        _expect(
            (refund.payment_id, refund.amount, refund.currency) == (payment_id, units, currency),
            "another refund than was asked for",
        )
        return to_refund(refund)

    async def totals(self, currency: str) -> GatewayTotals:
        """Returns what was ever charged and refunded in that currency."""
        totals = await self._get("/v1/totals", _TOTALS)
        return to_totals(totals, currency)

    async def list_payments(self) -> AsyncIterator[Payment]:
        """Yields every payment, newest first. Payments that are created meanwhile may be missing."""
        async for page in self.pages(_BEGINNING):
            for payment in page:
                yield payment

    async def pages(self, since: datetime) -> AsyncIterator[list[Payment]]:
        query: dict[str, str | int] = {"limit": _PAGE_SIZE, "since": since.isoformat()}
        cursors: set[str] = set()
        while True:
            page = await self._get("/v1/payments", _PAGE, query)
            _expect(bool(page.data) or not page.has_more, "an empty page with more to come")
            _expect(len({payment.id for payment in page.data}) == len(page.data), "a payment twice")
            if page.data:
                yield [to_payment(_consistent(payment)) for payment in page.data]
            if not page.has_more:
                return
            cursor = page.data[-1].id
            _expect(cursor not in cursors, "pages that go in circles")
            cursors.add(cursor)
            query["starting_after"] = cursor

    async def aclose(self) -> None:
        """Closes the connections; the next call opens new ones."""
        pool, self._pool = self._pool, None
        if pool is not None and pool.loop is asyncio.get_running_loop():
            with suppress(Exception):  # no request is in progress
                await pool.client.aclose()

    # -- one exchange --

    async def _get(self, path: str, shape: TypeAdapter[T], query: Mapping[str, str | int] | None = None) -> T:
        return _read(
            shape, *await self._exchange(lambda client: client.build_request("GET", path, params=query))
        )

    async def _post(
        self, path: str, shape: TypeAdapter[T], key: str, body: Mapping[str, Any] | None = None
    ) -> T:
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        # json.dumps writes ASCII: the gateway refuses text that is not valid Unicode.
        content = json.dumps(body) if body is not None else None
        return _read(
            shape,
            *await self._exchange(
                lambda client: client.build_request("POST", path, headers=headers, content=content)
            ),
        )

    async def _exchange(self, request: Callable[[httpx.AsyncClient], httpx.Request]) -> tuple[int, bytes]:
        """Returns status and body of the answer."""
        sent: httpx.Request | None = None
        try:
            pool = self._open()
            sent = request(pool.client)
            async with pool.free, asyncio.timeout(self._timeout):
                response = await pool.client.send(sent)
                return response.status_code, response.content
        except PaymentError:
            raise
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise PaymentGatewayError(
                "unreachable", "the payment gateway cannot be reached", retryable=True
            ) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise PaymentGatewayTimeout(
                f"the payment gateway gave no answer within {self._timeout:g} s"
            ) from error
        except httpx.RemoteProtocolError as error:
            raise PaymentGatewayError(
                BAD_ANSWER, "the payment gateway did not answer in HTTP", retryable=True
            ) from error
        except Exception as error:  # a broken connection raises many exceptions, including the event loop's
            # The request was not sent.
            if sent is None or isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
                raise PaymentGatewayError(
                    "invalid_request", f"cannot be sent: {type(error).__name__}", retryable=False
                ) from error
            # Once the request may have been sent, no local error is a definite refusal: an answer may have
            # caused it.
            raise PaymentGatewayError(
                "connection_lost", f"the connection broke: {type(error).__name__}", retryable=True
            ) from error

    def _open(self) -> _Pool:
        loop = asyncio.get_running_loop()
        if self._pool is None or self._pool.loop is not loop:
            # A pool belongs to its loop. If the loop has ended, its pool cannot be closed any more.
            client = httpx.AsyncClient(
                base_url=self._url,
                transport=_SingleConnectionPools(self._url),
                timeout=httpx.Timeout(self._timeout, connect=self._timeout / 2),
                headers={"Accept-Encoding": "identity"},
                trust_env=False,
            )
            self._pool = _Pool(loop, client, asyncio.Semaphore(self._concurrency))
        return self._pool


# -- interpreting answers; the in-process gateway uses the first five, too --


def minor_units(amount: Decimal, currency: str) -> int:
    """Returns the amount in the currency's smallest unit. Raises `PaymentGatewayError` if it is not a whole
    number of them."""
    try:
        return to_minor(amount, currency)
    except (ValueError, ArithmeticError) as error:
        raise PaymentGatewayError(
            "invalid_request", f"{amount} is no amount in {currency}", retryable=False
        ) from error


def to_payment(record: PaymentRecord) -> Payment:
    """Converts the record to the interface's `Payment`."""
    currency = record.currency
    return Payment(
        id=record.id,
        order_id=record.order_id,
        status=record.status,
        amount=from_minor(record.amount, currency),
        currency=currency,
        amount_refunded=from_minor(record.refunded, currency),
        fee=from_minor(record.fee, currency),
        method=record.method,
        created_at=record.created_at,
        transaction_id=record.charge_id,
        charged_at=record.charged_at,
        refunds=tuple(to_refund(refund) for refund in record.refunds) if record.refunds else (),
        installation=record.installation,
    )


def to_refund(record: RefundRecord) -> Refund:
    """Converts the record to the interface's `Refund`."""
    return Refund(
        id=record.id,
        payment_id=record.payment_id,
        amount=from_minor(record.amount, record.currency),
        currency=record.currency,
        created_at=record.created_at,
    )


def to_totals(totals: tuple[CurrencyTotals, ...], currency: str) -> GatewayTotals:
    """Returns one currency's totals; zero if nothing was ever charged in it."""
    mine = [each for each in totals if each.currency == currency] or [CurrencyTotals(currency, 0, 0)]
    _expect(len(mine) == 1, "a currency twice")
    _expect(mine[0].refunded <= mine[0].charged, "more refunded than charged")
    return GatewayTotals(
        charged=from_minor(mine[0].charged, currency), refunded=from_minor(mine[0].refunded, currency)
    )


def to_error(status: int, code: str, message: str) -> PaymentError:
    """Returns the typed error for an answer with this HTTP status."""
    if status == HTTPStatus.PAYMENT_REQUIRED:
        return PaymentLapsed(code, message) if code == "payment_cancelled" else PaymentDeclined(code, message)
    may_recover = status == HTTPStatus.TOO_MANY_REQUESTS or not 400 <= status < 500 or code in MAY_PASS
    return PaymentGatewayError(code, message, retryable=may_recover)


def _read(shape: TypeAdapter[T], status: int, body: bytes) -> T:
    if status != HTTPStatus.OK:
        raise _refusal(status, body)
    try:
        return shape.validate_json(body, strict=True)
    except ValidationError as error:
        raise PaymentGatewayError(
            BAD_ANSWER, "the payment gateway's answer could not be interpreted", retryable=True
        ) from error


def _refusal(status: int, body: bytes) -> PaymentError:
    try:
        error = _ERROR.validate_json(body)["error"]
        code, message = error["code"], error["message"]
    except (ValidationError, KeyError):
        code, message = None, None
    if not (isinstance(code, str) and _CODE.fullmatch(code) and isinstance(message, str)):
        if status == HTTPStatus.PAYMENT_REQUIRED:
            # Only a clear refusal is final.
            return PaymentGatewayError(
                BAD_ANSWER, "the payment gateway's refusal could not be interpreted", retryable=True
            )
        return to_error(status, f"http_{status}", f"the payment gateway answered {status}")
    return to_error(status, code, printable(message))


def _consistent(payment: PaymentRecord) -> PaymentRecord:
    """Returns the payment. Raises `PaymentGatewayError` if it contradicts itself."""
    charged = payment.status is PaymentStatus.SUCCEEDED
    _expect(
        charged == (payment.charge_id is not None) == (payment.charged_at is not None),
        "a payment half charged",
    )
    _expect(payment.refunded <= (payment.amount if charged else 0), "more refunded than charged")
    _expect(
        payment.refunded == sum(refund.amount for refund in payment.refunds), "refunds that do not add up"
    )
    mine = (payment.id, payment.currency)
    _expect(
        all((refund.payment_id, refund.currency) == mine for refund in payment.refunds),
        "another payment's refunds",
    )
    return payment


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise PaymentGatewayError(BAD_ANSWER, f"the payment gateway answered {otherwise}", retryable=True)


def _path_part(payment_id: str) -> str:
    """Returns the id, if it is a single path segment under `/v1/payments/`."""
    if not _ID.fullmatch(payment_id):
        raise PaymentGatewayError("no_such_payment", "this is not the id of a payment", retryable=False)
    return payment_id
