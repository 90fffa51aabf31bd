"""HTTP client of the sandbox gateway. It verifies every answer.

Raises `PaymentGatewayError` for an answer that is about a different payment, order or amount than the
request, that contradicts itself, or that cannot be interpreted. Raises only the exceptions of
`PaymentGateway`, except for cancellation.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Any, TypeVar, Unpack
from urllib.parse import urlencode

from pydantic import TypeAdapter, ValidationError

from shop.payments.errors import (
    PaymentDeclined,
    PaymentError,
    PaymentGatewayError,
    PaymentGatewayTimeout,
    PaymentLapsed,
    bad_answer,
)
from shop.payments.gateway import NewPayment, Payment, PaymentStatus, Refund
from shop.payments.sandbox.connections import BadAnswer, Connections, Unreachable
from shop.payments.sandbox.records import MAY_PASS, Page, PaymentRecord, RefundRecord
from shop.text.sanitize import printable
from shop.values.money import from_minor, to_minor

_ERROR = TypeAdapter(dict[str, dict[str, Any]])
_CODE = re.compile(r"[a-z0-9_]{1,64}")


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
        try_number=record.try_number,
    )


def to_refund(record: RefundRecord) -> Refund:
    return Refund(
        id=record.id,
        payment_id=record.payment_id,
        amount=from_minor(record.amount, record.currency),
        currency=record.currency,
        created_at=record.created_at,
    )


def to_error(status: int, code: str, message: str) -> PaymentError:
    """Returns the typed error for an answer with this HTTP status."""
    if status == HTTPStatus.PAYMENT_REQUIRED:
        return PaymentLapsed(code, message) if code == "payment_cancelled" else PaymentDeclined(code, message)
    may_recover = status == HTTPStatus.TOO_MANY_REQUESTS or not 400 <= status < 500 or code in MAY_PASS
    return PaymentGatewayError(code, message, retryable=may_recover)


def read(shape: TypeAdapter[T], status: int, body: bytes) -> T:
    """Returns the answer in that shape. Raises the typed error of a refusal."""
    if status != HTTPStatus.OK:
        raise _refusal(status, body)
    try:
        return shape.validate_json(body, strict=True)
    except ValidationError as error:
        raise bad_answer("the payment gateway's answer could not be interpreted") from error


def _refusal(status: int, body: bytes) -> PaymentError:
    try:
        error = _ERROR.validate_json(body)["error"]
        code, message = error["code"], error["message"]
    except (ValidationError, KeyError):
        code, message = None, None
    if not (isinstance(code, str) and _CODE.fullmatch(code) and isinstance(message, str)):
        if status == HTTPStatus.PAYMENT_REQUIRED:
            # Only a clear refusal is final.
            return bad_answer("the payment gateway's refusal could not be interpreted")
        return to_error(status, f"http_{status}", f"the payment gateway answered {status}")
    return to_error(status, code, printable(message))


def consistent(payment: PaymentRecord) -> PaymentRecord:
    """Returns the payment. Raises `PaymentGatewayError` if it contradicts itself."""
    charged = payment.status is PaymentStatus.SUCCEEDED
    expect(
        charged == (payment.charge_id is not None) == (payment.charged_at is not None),
        "a payment half charged",
    )
    expect(payment.refunded <= (payment.amount if charged else 0), "more refunded than charged")
    expect(payment.refunded == sum(refund.amount for refund in payment.refunds), "refunds that do not add up")
    mine = (payment.id, payment.currency)
    expect(
        all((refund.payment_id, refund.currency) == mine for refund in payment.refunds),
        "another payment's refunds",
    )
    return payment


def expect(holds: bool, otherwise: str) -> None:
    """Raises `PaymentGatewayError` with what the gateway answered otherwise, unless it holds."""
    if not holds:
        raise bad_answer(f"the payment gateway answered {otherwise}")


_PAYMENT, _REFUND, _PAGE = TypeAdapter(PaymentRecord), TypeAdapter(RefundRecord), TypeAdapter(Page)

_MOST_BYTES = 8_000_000
"""Limits the size of an answer; valid ones are smaller."""
_PAGE_SIZE = 500
_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")

T = TypeVar("T")


class SandboxGateway:
    """A `GatewayClient` with a pool of at most `concurrency` connections, for one event loop.

    `timeout_seconds` limits each call, without the wait for a free connection. Like a timeout, any retryable
    error may have moved money: an error 500 or a broken connection can follow the charge.
    """

    def __init__(self, url: str, timeout_seconds: float, concurrency: int) -> None:
        self._url, self._timeout = url, timeout_seconds
        self._free = asyncio.Semaphore(concurrency)
        self._connections: Connections | None = None

    async def create(
        self, *, key: str, installation: str | None = None, **new: Unpack[NewPayment]
    ) -> Payment:
        units, currency = minor_units(new["amount"], new["currency"]), new["currency"]
        body = {"try_number": 1, **new, "amount": units, "installation": installation}
        made = consistent(await self._post("/v1/payments", _PAYMENT, key, body))
        created = (made.order_id, made.amount, made.currency, made.installation, made.try_number)
        expected = (new["order_id"], units, currency, installation, body["try_number"])
        expect(created == expected, "another payment than was created")
        return to_payment(made)

    async def confirm(self, payment_id: str, *, key: str) -> Payment:
        payment = consistent(
            await self._post(f"/v1/payments/{_path_part(payment_id)}/confirm", _PAYMENT, key)
        )
        expect(payment.id == payment_id, "another payment than was confirmed")
        expect(payment.status is PaymentStatus.SUCCEEDED, "neither a charge nor a refusal")
        return to_payment(payment)

    async def get(self, payment_id: str) -> Payment:
        payment = consistent(await self._get(f"/v1/payments/{_path_part(payment_id)}", _PAYMENT))
        expect(payment.id == payment_id, "another payment than was asked for")
        return to_payment(payment)

    async def find(self, order_id: str, *, installation: str | None = None) -> list[Payment]:
        query = {"order_id": order_id} | ({"installation": installation} if installation is not None else {})
        page = await self._get("/v1/payments", _PAGE, query)
        expect(not page.has_more, "a part of the order's payments only")
        expect(all(payment.order_id == order_id for payment in page.data), "another order's payments")
        expect(len({payment.id for payment in page.data}) == len(page.data), "a payment twice")
        return [
            to_payment(consistent(payment)) for payment in page.data if payment.installation == installation
        ]

    async def cancel(self, payment_id: str, *, key: str) -> Payment:
        payment = consistent(await self._post(f"/v1/payments/{_path_part(payment_id)}/cancel", _PAYMENT, key))
        expect(payment.id == payment_id, "another payment than was cancelled")
        expect(payment.status is not PaymentStatus.CREATED, "a payment that can still be charged")
        return to_payment(payment)

    async def refund(self, payment_id: str, *, amount: Decimal, currency: str, key: str) -> Refund:
        units = minor_units(amount, currency)
        body = {"payment_id": _path_part(payment_id), "amount": units, "currency": currency}
        refund = await self._post("/v1/refunds", _REFUND, key, body)
        expect(
            (refund.payment_id, refund.amount, refund.currency) == (payment_id, units, currency),
            "another refund than was asked for",
        )
        return to_refund(refund)

    async def pages(self, since: datetime) -> AsyncIterator[list[Payment]]:
        query: dict[str, str | int] = {"limit": _PAGE_SIZE, "since": since.isoformat()}
        cursors: set[str] = set()
        while True:
            page = await self._get("/v1/payments", _PAGE, query)
            expect(bool(page.data) or not page.has_more, "an empty page with more to come")
            expect(len({payment.id for payment in page.data}) == len(page.data), "a payment twice")
            if page.data:
                yield [to_payment(consistent(payment)) for payment in page.data]
            if not page.has_more:
                return
            cursor = page.data[-1].id
            expect(cursor not in cursors, "pages that go in circles")
            cursors.add(cursor)
            query["starting_after"] = cursor

    async def aclose(self) -> None:
        """Closes the connections; the next call opens new ones."""
        if self._connections is not None:
            self._connections.close()  # no request is in progress

    # -- one exchange --

    async def _get(self, path: str, shape: TypeAdapter[T], query: Mapping[str, str | int] | None = None) -> T:
        return read(shape, *await self._exchange("GET", path, query=query))

    async def _post(
        self, path: str, shape: TypeAdapter[T], key: str, body: Mapping[str, Any] | None = None
    ) -> T:
        # json.dumps writes ASCII: the gateway refuses text that is not valid Unicode.
        content = json.dumps(body).encode() if body is not None else b""
        return read(shape, *await self._exchange("POST", path, key=key, content=content))

    async def _exchange(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        key: str | None = None,
        content: bytes = b"",
    ) -> tuple[int, bytes]:
        """Returns status and body of the answer. `key`: the idempotency key of a request that has content."""
        try:
            if self._connections is None:
                limits: Any = {"connect_seconds": self._timeout / 2, "most_bytes": _MOST_BYTES}
                self._connections = Connections(self._url, **limits)
            connections, headers = self._connections, [] if key is None else _headers(key, content)
            request = connections.request(method, f"{path}?{urlencode(query)}" if query else path, headers)
        except Exception as error:
            raise PaymentGatewayError(
                "invalid_request", f"cannot be sent: {type(error).__name__}", retryable=False
            ) from error
        try:
            async with self._free, asyncio.timeout(self._timeout):
                return await connections.exchange(request, content)
        except Unreachable as error:
            raise PaymentGatewayError(
                "unreachable", "the payment gateway cannot be reached", retryable=True
            ) from error
        except TimeoutError as error:
            raise PaymentGatewayTimeout(
                f"the payment gateway gave no answer within {self._timeout:g} s"
            ) from error
        except BadAnswer as error:
            raise bad_answer(f"the payment gateway answered {error}") from error
        except Exception as error:
            # The request may have been sent: no local error is a definite refusal, as an answer may have
            # caused it.
            raise PaymentGatewayError(
                "connection_lost", f"the connection broke: {type(error).__name__}", retryable=True
            ) from error


def _path_part(payment_id: str) -> str:
    """Returns the id, if it is a single path segment under `/v1/payments/`."""
    if not _ID.fullmatch(payment_id):
        raise PaymentGatewayError("no_such_payment", "this is not the id of a payment", retryable=False)
    return payment_id


def _headers(key: str, content: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (b"Idempotency-Key", key.encode("ascii")),
        (b"Content-Type", b"application/json"),
        (b"Content-Length", b"%d" % len(content)),
    ]
