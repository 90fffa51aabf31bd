"""Interprets the sandbox gateway's answers.

Raises `PaymentGatewayError` for an answer that contradicts itself, or that cannot be interpreted.
"""

from __future__ import annotations

import re
from decimal import Decimal
from http import HTTPStatus
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from shop.payments.errors import (
    BAD_ANSWER,
    PaymentDeclined,
    PaymentError,
    PaymentGatewayError,
    PaymentLapsed,
)
from shop.payments.gateway import Payment, PaymentStatus, Refund
from shop.payments.sandbox.records import MAY_PASS, PaymentRecord, RefundRecord
from shop.text.sanitize import printable
from shop.values.money import from_minor, to_minor

_ERROR = TypeAdapter(dict[str, dict[str, Any]])
_CODE = re.compile(r"[a-z0-9_]{1,64}")

T = TypeVar("T")


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
        raise PaymentGatewayError(BAD_ANSWER, f"the payment gateway answered {otherwise}", retryable=True)
