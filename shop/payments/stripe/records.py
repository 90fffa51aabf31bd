"""Reads Stripe's objects: only the fields that are used. Objects that contradict themselves are errors.

Stripe's currency units are mostly ISO 4217's smallest units, with exceptions
(https://docs.stripe.com/currencies). An amount that cannot be charged exactly is refused, never rounded: an
order's total and its charge are equal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, TypeAdapter, ValidationError

from shop.payments.errors import PaymentDeclined, PaymentGatewayError, bad_answer
from shop.payments.gateway import Payment, PaymentStatus, Refund
from shop.text.sanitize import printable
from shop.values.money import decimals, fits, is_currency, round_to

_AS_TWO_DECIMALS = frozenset({"ISK", "UGX"})
"""Currencies without decimals that Stripe counts in hundredths. Only whole hundreds can be charged."""
_NO_DECIMALS = frozenset(
    {"BIF", "CLP", "DJF", "GNF", "JPY", "KMF", "KRW", "MGA", "PYG", "RWF", "VND", "VUV", "XAF", "XOF", "XPF"}
)
_THREE_DECIMALS = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})
"""Currencies with three decimals, the last of which must be 0."""


def _exponent(currency: str) -> int:
    """Returns the number of decimals of Stripe's unit. Raises what `to_units` raises."""
    if currency in _NO_DECIMALS:
        return 0
    if currency in _THREE_DECIMALS:
        return 3
    if currency in _AS_TWO_DECIMALS or (is_currency(currency) and decimals(currency) == 2):
        return 2
    raise _refused(f"Stripe does not accept payments in {currency}")


def _step(currency: str) -> Decimal:
    """Returns the smallest amount by which two charges can differ."""
    if currency in _THREE_DECIMALS:
        return Decimal("0.01")
    return Decimal(1) if currency in _AS_TWO_DECIMALS else Decimal(1).scaleb(-_exponent(currency))


def to_units(amount: Decimal, currency: str) -> int:
    """Converts an amount to Stripe's units: 10.59 USD is 1059, 500 JPY is 500, 5 ISK is 500, 5.12 KWD is
    5120. Raises `PaymentGatewayError`, not retryable, for an amount that Stripe cannot charge, such as 5.124
    KWD."""
    exponent, step = _exponent(currency), _step(currency)
    if not amount.is_finite() or not fits(amount, currency) or amount % step:
        raise _refused(f"Stripe cannot charge {amount} {currency}: it accepts {currency} in steps of {step}")
    return int(amount.scaleb(exponent))


def from_units(units: int, currency: str) -> Decimal:
    """Converts Stripe's units to an amount with the currency's own decimals."""
    amount = Decimal(units).scaleb(-_exponent(currency))
    return amount.quantize(Decimal(1).scaleb(-decimals(currency))) if fits(amount, currency) else amount


def _refused(message: str) -> PaymentGatewayError:
    return PaymentGatewayError("invalid_amount", message, retryable=False)


Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_]{1,100}$")]
Code = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,64}$")]
Currency = Annotated[str, StringConstraints(pattern=r"^[a-z]{3}$")]
Units = Annotated[int, Field(strict=True, ge=0, lt=10**15)]
Time = Annotated[int, Field(strict=True, ge=0, lt=10**11)]
Metadata = dict[str, str]
_TRY = re.compile(r"[0-9]{1,4}")
_FAILED_REFUNDS = frozenset({"failed", "canceled"})
"""States of refunds that refunded nothing."""


class Record(BaseModel):
    """Part of an object: ignores all fields that are not read."""

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class RefundRecord(Record):
    id: Id
    amount: Units
    currency: Currency
    created: Time
    status: str | None = None
    payment_intent: Id | None = None
    metadata: Metadata = {}

    @property
    def counts(self) -> bool:
        return self.status not in _FAILED_REFUNDS


class RefundList(Record):
    data: list[RefundRecord]
    has_more: bool = False


class _Settled(Record):
    """The charge in the shop's settlement currency."""

    fee: Annotated[int, Field(strict=True, gt=-(10**15), lt=10**15)]
    currency: Currency
    exchange_rate: Annotated[float, Field(ge=1e-9, le=1e9)] | None = None


class ChargeRecord(Record):
    id: Id
    created: Time
    status: Literal["succeeded", "pending", "failed"]
    payment_intent: Id | None = None
    balance_transaction: _Settled | Id | None = None
    refunds: RefundList | None = None


class _LastError(Record):
    code: Code | None = None
    decline_code: Code | None = None
    message: str | None = None


class WaitingIntent(Record):
    """A PaymentIntent with its client secret, which no other record has: what is not read is not logged."""

    id: Id
    status: str
    client_secret: SecretStr

    @property
    def needs_customer(self) -> bool:
        return self.status == "requires_action"


class Intent(Record):
    """A PaymentIntent, with its charge expanded."""

    id: Id
    amount: Units
    currency: Currency
    created: Time
    status: Literal[
        "requires_payment_method",
        "requires_confirmation",
        "requires_action",
        "requires_capture",
        "processing",
        "succeeded",
        "canceled",
    ]
    metadata: Metadata = {}
    latest_charge: ChargeRecord | None = None
    last_payment_error: _LastError | None = None

    @property
    def order_id(self) -> str:
        """The order's id; empty if the payment belongs to another user of the account."""
        return self.metadata.get("order_id", "")

    @property
    def installation(self) -> str | None:
        """The installation that created it, or None if it is not marked."""
        return self.metadata.get("installation")

    @property
    def try_number(self) -> int:
        """The try of the order that created it. Payments of first tries are not marked."""
        given = self.metadata.get("try", "")
        return max(1, int(given)) if _TRY.fullmatch(given) else 1

    def belongs_to(self, order_id: str, installation: str | None) -> bool:
        """Returns whether that installation created it for that order. None: an earlier version of this
        software, whose metadata has nothing but the order's id and the method; that of other shops' software
        has more."""
        if installation is None and not self.metadata.keys() <= {"order_id", "method"}:
            return False
        return (self.order_id, self.installation) == (order_id, installation)

    @property
    def created_at(self) -> datetime:
        return _time(self.created)

    @property
    def declined(self) -> bool:
        return self.status in {"requires_payment_method", "canceled"} and self.last_payment_error is not None

    def refusal(self) -> PaymentDeclined:
        """Returns the reason why it was declined."""
        error = self.last_payment_error or _LastError()
        return PaymentDeclined(
            error.decline_code or error.code or "declined",
            printable(error.message or "the card was declined"),
        )


class OddIntent(Record):
    """A PaymentIntent that is unreadable except for its owner."""

    id: Id
    created: Time
    metadata: Any = None

    @property
    def owner(self) -> tuple[str, str | None]:
        """(order, installation), as far as they are readable."""
        known = self.metadata if isinstance(self.metadata, dict) else {}
        order_id, installation = known.get("order_id"), known.get("installation")
        return (
            order_id if isinstance(order_id, str) else "",
            installation if isinstance(installation, str) else None,
        )


class IntentPage(Record):
    data: list[Annotated[Intent | OddIntent, Field(union_mode="left_to_right")]]
    has_more: bool


class _Reference(Record):
    """An object that refers to a payment, such as a charge or a refund."""

    id: Id
    created: Time
    payment_intent: Id | None = None


class ReferencePage(Record):
    data: list[_Reference]
    has_more: bool


class _Found(Record):
    id: Id


class FoundPage(Record):
    data: list[_Found]
    has_more: bool = False


T = TypeVar("T", bound=BaseModel)


def read(shape: type[T], answer: Any) -> T:
    """Parses the answer. Raises `PaymentGatewayError`, retryable, if it does not have this shape."""
    try:
        return TypeAdapter(shape).validate_python(answer)
    except (ValidationError, RecursionError):
        failure = bad_answer("Stripe's answer could not be interpreted")
    raise failure  # outside of the except: an error that refers to the answer could write it to a log


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise bad_answer(f"Stripe answered {otherwise}")


def to_payment(intent: Intent, refunds: Sequence[RefundRecord] | None = None) -> Payment:
    """Converts the intent to the interface's `Payment`. `refunds`: all of them, as the charge has only the
    latest."""
    currency = intent.currency.upper()
    charge = intent.latest_charge if intent.status == "succeeded" else None
    expect((charge is not None) == (intent.status == "succeeded"), "a success without a charge")
    listed = refunds if refunds is not None else charge.refunds.data if charge and charge.refunds else []
    given = sorted(
        (refund for refund in listed if refund.counts), key=lambda refund: (refund.created, refund.id)
    )
    expect(all(refund.currency == intent.currency for refund in given), "a refund in another currency")
    expect(
        sum(refund.amount for refund in given) <= (intent.amount if charge else 0),
        "more refunded than charged",
    )
    return Payment(
        id=intent.id,
        order_id=intent.order_id,
        status=_status(intent),
        amount=from_units(intent.amount, currency),
        currency=currency,
        amount_refunded=from_units(sum(refund.amount for refund in given), currency),
        fee=_fee(charge, currency),
        method=intent.metadata.get("method", "card"),
        created_at=intent.created_at,
        transaction_id=charge.id if charge else None,
        charged_at=_time(charge.created) if charge else None,
        refunds=tuple(to_refund(refund, intent.id) for refund in given),
        installation=intent.installation,
        try_number=intent.try_number,
    )


def to_unreadable(intent: OddIntent | Intent) -> Payment:
    """Converts an intent that contradicts itself to an unreadable payment in a list."""
    order_id, installation = (
        intent.owner if isinstance(intent, OddIntent) else (intent.order_id, intent.installation)
    )
    zero, created, status = Decimal(0), _time(intent.created), PaymentStatus.UNREADABLE
    return Payment(
        intent.id, order_id, status, zero, "XXX", zero, zero, "card", created, installation=installation
    )


def to_refund(refund: RefundRecord, payment_id: str) -> Refund:
    currency = refund.currency.upper()
    return Refund(refund.id, payment_id, from_units(refund.amount, currency), currency, _time(refund.created))


def _status(intent: Intent) -> PaymentStatus:
    """Returns the status. What may still be charged counts as created, so that the compensation cancels it.
    At Stripe this includes declined payments: the shop's page, which has the client secret, can pay with
    another card."""
    match intent.status:
        case "succeeded":
            return PaymentStatus.SUCCEEDED
        case "canceled":
            return PaymentStatus.CANCELLED
        case _:
            return PaymentStatus.CREATED


def _fee(charge: ChargeRecord | None, currency: str) -> Decimal:
    """Returns the fee in the payment's currency, at the rate of its settlement; zero until it is settled."""
    settled = charge.balance_transaction if charge else None
    if not isinstance(settled, _Settled):
        return Decimal(0)
    fee = from_units(settled.fee, settled.currency.upper())
    if settled.currency.upper() == currency:
        return fee
    return (
        round_to(fee / Decimal(str(settled.exchange_rate)), currency) if settled.exchange_rate else Decimal(0)
    )


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
