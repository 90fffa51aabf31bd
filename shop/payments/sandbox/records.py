"""Records and refusals in the sandbox gateway's answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from pydantic import AwareDatetime, Field

from shop.payments.gateway import PaymentStatus

MAX_AMOUNT = 10**12
"""Limits the amount of a payment, in smallest units, so that sums stay far below SQLite's 64 bits."""
MAX_TOTAL = 10**18
"""Limits the total of all payments in a currency, in smallest units, to what SQLite can sum."""
MAX_TRY = 10_000
"""Limits the number of an order's try."""
MAY_PASS = frozenset({"request_in_progress", "duplicate_request"})
"""Conflicts with an earlier request, which may have been executed: retryable, and a later lookup shows the
result."""
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")]
Units = Annotated[int, Field(ge=0, le=MAX_AMOUNT)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]


@dataclass(frozen=True, slots=True)
class RefundRecord:
    id: Id
    payment_id: Id
    amount: Units
    currency: Currency
    created_at: AwareDatetime


@dataclass(frozen=True, slots=True)
class PaymentRecord:
    id: Id
    order_id: str
    status: PaymentStatus
    amount: Units
    currency: Currency
    refunded: Units
    fee: Units
    """Zero until the payment is charged."""
    method: str
    card_last4: str | None
    charge_id: Id | None
    created_at: AwareDatetime
    charged_at: AwareDatetime | None
    refunds: tuple[RefundRecord, ...] = ()
    installation: str | None = None
    """The installation that created it, of those that share the account. None: not given."""
    try_number: Annotated[int, Field(ge=1, le=MAX_TRY)] = 1
    """The try of the order that created it."""


@dataclass(frozen=True, slots=True)
class Page:
    data: tuple[PaymentRecord, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class CurrencyTotals:
    currency: Currency
    charged: Annotated[int, Field(ge=0, le=MAX_TOTAL)]
    refunded: Annotated[int, Field(ge=0, le=MAX_TOTAL)]


class Refusal(Exception):
    """The gateway refused the request; no money moved."""

    def __init__(self, status: HTTPStatus, code: str, message: str) -> None:
        self.status, self.code, self.message = status, code, message
        super().__init__(f"{message} ({code})")

    @property
    def retryable(self) -> bool:
        return self.status >= HTTPStatus.INTERNAL_SERVER_ERROR or self.code in MAY_PASS

    @property
    def final(self) -> bool:
        """Whether the same request is refused at any later time, too, so that its idempotency key can keep
        the answer."""
        return self.status in {HTTPStatus.BAD_REQUEST, HTTPStatus.PAYMENT_REQUIRED}

    def to_json(self) -> str:
        return json.dumps([self.status, self.code, self.message])

    @classmethod
    def from_json(cls, text: str) -> Refusal:
        status, code, message = json.loads(text)
        return cls(HTTPStatus(status), code, message)


class AnswerLost(Exception):
    """The payment was charged, and the server must not deliver the answer in time."""

    def __init__(self, payment: PaymentRecord) -> None:
        self.payment = payment
        super().__init__(f"the answer about {payment.id} is lost")
