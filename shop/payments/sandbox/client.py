"""The client of the sandbox gateway. It trusts nothing that comes back.

An answer about another payment, order or amount than was asked about, one that contradicts itself, or one that is no answer
at all is a `PaymentGatewayError`. No other exception than those of `PaymentGateway` comes out of it, save for cancellation.
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

from shop.payments.errors import BAD_ANSWER, PaymentDeclined, PaymentError, PaymentGatewayError, PaymentGatewayTimeout, PaymentLapsed
from shop.payments.gateway import GatewayTotals, Payment, PaymentStatus, Refund
from shop.payments.sandbox.records import MAY_PASS, CurrencyTotals, Page, PaymentRecord, RefundRecord
from shop.text.sanitize import said
from shop.values.money import from_minor, to_minor

_PAYMENT, _REFUND, _PAGE = TypeAdapter(PaymentRecord), TypeAdapter(RefundRecord), TypeAdapter(Page)
_TOTALS = TypeAdapter(tuple[CurrencyTotals, ...])
_ERROR = TypeAdapter(dict[str, dict[str, Any]])

_MOST_BYTES = 8_000_000
"""More than any honest answer."""
_PAGE_SIZE = 500
_EVER = datetime(1970, 1, 1, tzinfo=UTC)
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_CODE = re.compile(r"[a-z0-9_]{1,64}")

T = TypeVar("T")


class _Lanes(httpx.AsyncBaseTransport):
    """A pool in which a connection belongs to one request at a time, and is thrown away if that request fails.

    httpx's own pool looks at every connection for every request, and lets several wait for the same one: with 50 connections it took
    four times the CPU, and under load some requests waited for more than 5 s. So each lane is a pool of one.
    """

    def __init__(self, url: str) -> None:
        # Loading the certificates takes 100 ms, in each process; without https there is nothing to verify.
        self._verify = False if url.startswith("http:") else httpx.create_ssl_context(trust_env=False)
        self._idle: list[httpx.AsyncHTTPTransport] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        lane = self._idle.pop() if self._idle else self._new()
        try:
            answer = await _whole(await lane.handle_async_request(request))
        except BaseException:
            with suppress(Exception):
                await lane.aclose()
            raise
        self._idle.append(lane)
        return answer

    def _new(self) -> httpx.AsyncHTTPTransport:
        return httpx.AsyncHTTPTransport(verify=self._verify, trust_env=False, limits=httpx.Limits(max_connections=1, keepalive_expiry=5))

    async def aclose(self) -> None:
        while self._idle:
            await self._idle.pop().aclose()


async def _whole(response: httpx.Response) -> httpx.Response:
    """Status and body as they came, read to the end; nothing else of an answer counts."""
    try:
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            _expect(len(body) <= _MOST_BYTES, "more than any honest answer")
        return httpx.Response(response.status_code, content=bytes(body))
    finally:
        await response.aclose()


@dataclass(frozen=True, slots=True)
class _Pool:
    loop: asyncio.AbstractEventLoop
    client: httpx.AsyncClient
    free: asyncio.Semaphore


class SandboxGateway:
    """A `GatewayClient` over one pool of at most `concurrency` connections, made in the event loop that first needs it.

    No call takes longer than `timeout_seconds` from the moment it has its turn; waiting for a turn does not count. A retryable
    error may have moved money as well as a timeout may: an error 500, or a connection that breaks, can come after the charge.
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
        payment = _sound(await self._post("/v1/payments", _PAYMENT, key, body))
        told = (payment.order_id, payment.amount, payment.currency, payment.installation)
        _expect(told == (order_id, units, currency, installation), "another payment than was created")
        return to_payment(payment)

    async def confirm(self, payment_id: str, *, key: str) -> Payment:
        payment = _sound(await self._post(f"/v1/payments/{_path_part(payment_id)}/confirm", _PAYMENT, key))
        _expect(payment.id == payment_id, "another payment than was confirmed")
        _expect(payment.status is PaymentStatus.SUCCEEDED, "neither a charge nor a refusal")
        return to_payment(payment)

    async def get(self, payment_id: str) -> Payment:
        payment = _sound(await self._get(f"/v1/payments/{_path_part(payment_id)}", _PAYMENT))
        _expect(payment.id == payment_id, "another payment than was asked for")
        return to_payment(payment)

    async def find(self, order_id: str, *, installation: str | None = None) -> list[Payment]:
        query = {"order_id": order_id} | ({"installation": installation} if installation is not None else {})
        page = await self._get("/v1/payments", _PAGE, query)
        _expect(not page.has_more, "a part of the order's payments only")
        _expect(all(payment.order_id == order_id for payment in page.data), "another order's payments")
        _expect(len({payment.id for payment in page.data}) == len(page.data), "a payment twice")
        return [to_payment(_sound(payment)) for payment in page.data if payment.installation == installation]

    async def cancel(self, payment_id: str, *, key: str) -> Payment:
        payment = _sound(await self._post(f"/v1/payments/{_path_part(payment_id)}/cancel", _PAYMENT, key))
        _expect(payment.id == payment_id, "another payment than was cancelled")
        _expect(payment.status is not PaymentStatus.CREATED, "a payment that can still be charged")
        return to_payment(payment)

    async def refund(self, payment_id: str, *, amount: Decimal, currency: str, key: str) -> Refund:
        units = minor_units(amount, currency)
        body = {"payment_id": _path_part(payment_id), "amount": units, "currency": currency}
        refund = await self._post("/v1/refunds", _REFUND, key, body)
        _expect((refund.payment_id, refund.amount, refund.currency) == (payment_id, units, currency), "another refund than was asked for")
        return to_refund(refund)

    async def totals(self, currency: str) -> GatewayTotals:
        """What was ever charged and refunded in that currency."""
        totals = await self._get("/v1/totals", _TOTALS)
        return to_totals(totals, currency)

    async def list_payments(self) -> AsyncIterator[Payment]:
        """Every payment there is, newest first. Those that are created meanwhile may be missing."""
        async for page in self.pages(_EVER):
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
                yield [to_payment(_sound(payment)) for payment in page.data]
            if not page.has_more:
                return
            cursor = page.data[-1].id
            _expect(cursor not in cursors, "pages that go in circles")
            cursors.add(cursor)
            query["starting_after"] = cursor

    async def aclose(self) -> None:
        """Closes the connections; the next call makes new ones."""
        pool, self._pool = self._pool, None
        if pool is not None and pool.loop is asyncio.get_running_loop():
            with suppress(Exception):  # nothing is under way any more that could be harmed
                await pool.client.aclose()

    # -- one exchange --

    async def _get(self, path: str, shape: TypeAdapter[T], query: Mapping[str, str | int] | None = None) -> T:
        return _read(shape, *await self._exchange(lambda client: client.build_request("GET", path, params=query)))

    async def _post(self, path: str, shape: TypeAdapter[T], key: str, body: Mapping[str, Any] | None = None) -> T:
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        # json.dumps writes plain ASCII: what is no proper text is then refused by the gateway, as it should be.
        content = json.dumps(body) if body is not None else None
        return _read(shape, *await self._exchange(lambda client: client.build_request("POST", path, headers=headers, content=content)))

    async def _exchange(self, request: Callable[[httpx.AsyncClient], httpx.Request]) -> tuple[int, bytes]:
        """Status and body of the answer, whatever they are."""
        asked: httpx.Request | None = None
        try:
            pool = self._open()
            asked = request(pool.client)
            async with pool.free, asyncio.timeout(self._timeout):
                response = await pool.client.send(asked)
                return response.status_code, response.content
        except PaymentError:
            raise
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise PaymentGatewayError("unreachable", "the payment gateway cannot be reached", retryable=True) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise PaymentGatewayTimeout(f"the payment gateway gave no answer within {self._timeout:g} s") from error
        except httpx.RemoteProtocolError as error:
            raise PaymentGatewayError(BAD_ANSWER, "the payment gateway did not answer in HTTP", retryable=True) from error
        except Exception as error:  # a broken connection has many names, down to those of the event loop
            if asked is None or isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):  # raised before anything is sent
                raise PaymentGatewayError("invalid_request", f"cannot be sent: {type(error).__name__}", retryable=False) from error
            # Once it may have been sent, no error of ours is a clear no: an answer may have caused it.
            raise PaymentGatewayError("connection_lost", f"the connection broke: {type(error).__name__}", retryable=True) from error

    def _open(self) -> _Pool:
        loop = asyncio.get_running_loop()
        if self._pool is None or self._pool.loop is not loop:
            # A pool belongs to its loop; one whose loop is gone cannot even be closed.
            client = httpx.AsyncClient(
                base_url=self._url,
                transport=_Lanes(self._url),
                timeout=httpx.Timeout(self._timeout, connect=self._timeout / 2),
                headers={"Accept-Encoding": "identity"},
                trust_env=False,
            )
            self._pool = _Pool(loop, client, asyncio.Semaphore(self._concurrency))
        return self._pool


# -- what an answer means; the first three are the in-process gateway's too ------------------------------------------------


def minor_units(amount: Decimal, currency: str) -> int:
    """The amount as the gateway counts, or a `PaymentGatewayError` if it cannot be counted so."""
    try:
        return to_minor(amount, currency)
    except (ValueError, ArithmeticError) as error:
        raise PaymentGatewayError("invalid_request", f"{amount} is no amount in {currency}", retryable=False) from error


def to_payment(record: PaymentRecord) -> Payment:
    """The payment in the protocol's terms."""
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
    """The refund in the protocol's terms."""
    return Refund(
        id=record.id,
        payment_id=record.payment_id,
        amount=from_minor(record.amount, record.currency),
        currency=record.currency,
        created_at=record.created_at,
    )


def to_totals(totals: tuple[CurrencyTotals, ...], currency: str) -> GatewayTotals:
    """One currency's totals; nothing if nothing was ever charged in it."""
    mine = [each for each in totals if each.currency == currency] or [CurrencyTotals(currency, 0, 0)]
    _expect(len(mine) == 1, "a currency twice")
    _expect(mine[0].refunded <= mine[0].charged, "more refunded than charged")
    return GatewayTotals(charged=from_minor(mine[0].charged, currency), refunded=from_minor(mine[0].refunded, currency))


def to_error(status: int, code: str, message: str) -> PaymentError:
    """The typed error for an answer with this HTTP status."""
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
        raise PaymentGatewayError(BAD_ANSWER, "the payment gateway's answer makes no sense", retryable=True) from error


def _refusal(status: int, body: bytes) -> PaymentError:
    try:
        error = _ERROR.validate_json(body)["error"]
        code, message = error["code"], error["message"]
    except (ValidationError, KeyError):
        code, message = None, None
    if not (isinstance(code, str) and _CODE.fullmatch(code) and isinstance(message, str)):
        if status == HTTPStatus.PAYMENT_REQUIRED:
            # A "no" for good has to be a clear one.
            return PaymentGatewayError(BAD_ANSWER, "the payment gateway's refusal makes no sense", retryable=True)
        return to_error(status, f"http_{status}", f"the payment gateway answered {status}")
    return to_error(status, code, said(message))


def _sound(payment: PaymentRecord) -> PaymentRecord:
    """Refuses a payment that contradicts itself."""
    charged = payment.status is PaymentStatus.SUCCEEDED
    _expect(charged == (payment.charge_id is not None) == (payment.charged_at is not None), "a payment half charged")
    _expect(payment.refunded <= (payment.amount if charged else 0), "more refunded than charged")
    _expect(payment.refunded == sum(refund.amount for refund in payment.refunds), "refunds that do not add up")
    mine = (payment.id, payment.currency)
    _expect(all((refund.payment_id, refund.currency) == mine for refund in payment.refunds), "another payment's refunds")
    return payment


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise PaymentGatewayError(BAD_ANSWER, f"the payment gateway answered {otherwise}", retryable=True)


def _path_part(payment_id: str) -> str:
    """An id that names one thing under `/v1/payments/`, and nothing else."""
    if not _ID.fullmatch(payment_id):
        raise PaymentGatewayError("no_such_payment", "this is no payment's id", retryable=False)
    return payment_id
