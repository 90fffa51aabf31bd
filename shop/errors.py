"""Every way in which an order can be refused or a step can fail, as a type.

A business "no" is an exception with a type, never a success with a flag in it. `retryable` says whether
trying the same thing again can help; Prefect's retries ask it. `details()` is what the journal keeps and people read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from saga import errors as engine_errors
from saga.errors import StepError

MAX_PROBLEMS = 25
"""Problems of one order that are listed: each is written several times, to the order, its steps and the notice of its end."""
_MAX_CHARACTERS = 150
"""Of each part of a problem."""


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 3]}..."


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an order."""

    place: str
    """Where: a path into the order, such as `items[2].quantity`."""
    given: str
    """What was there, shortened; never card data."""
    expected: str
    """What should have been there."""

    def __str__(self) -> str:
        return f"{self.place}: got {self.given}, expected {self.expected}"

    def shortened(self) -> Problem:
        """The same, of a length that does not depend on what was sent."""
        return Problem(_cut(self.place), _cut(self.given), _cut(self.expected))


class OrderRejected(StepError):
    """The order is not valid; carries every problem, not just the first, up to `MAX_PROBLEMS`, and how many more there are."""

    code = "rejected"
    refusal = True

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problem.shortened() for problem in problems[:MAX_PROBLEMS])
        self.more = len(problems) - len(self.problems)
        super().__init__("; ".join(self.reasons()))

    def details(self) -> dict[str, Any]:
        listed = {"problems": [asdict(problem) for problem in self.problems]}
        return {**super().details(), **listed, **({"more_problems": self.more} if self.more else {})}

    def reasons(self) -> list[str]:
        more = [f"and {self.more} more problem{'s' if self.more > 1 else ''}"] if self.more else []
        return [*map(str, self.problems), *more]


class UnusableOrder(OrderRejected):
    """There is no usable order id, so nothing can be stored: the caller is told instead."""

    code = "unusable"


class OrderConflict(StepError):
    """An order with this id, but with other content, is already known."""

    code = "conflict"
    refusal = True

    def __init__(self, order_id: str) -> None:
        self.order_id = order_id
        super().__init__(
            f"order {order_id!r} is already known with different content; an order cannot be changed by sending it again: "
            "give the new one an id of its own"
        )


@dataclass(frozen=True, slots=True)
class Shortage:
    """One item that cannot be reserved."""

    product_id: str
    requested: int
    available: int


class OutOfStock(StepError):
    """At least one item is short; nothing was reserved."""

    code = "out_of_stock"
    refusal = True

    def __init__(self, shortages: Sequence[Shortage]) -> None:
        self.shortages = tuple(shortages)
        super().__init__(
            "out of stock: " + ", ".join(f"{s.product_id} ({s.requested} requested, {s.available} available)" for s in shortages)
        )

    def details(self) -> dict[str, Any]:
        return {**super().details(), "shortages": [asdict(shortage) for shortage in self.shortages]}

    def reasons(self) -> list[str]:
        return [f"{s.product_id}: {s.requested} requested, {s.available} available" for s in self.shortages]


class PaymentRefused(StepError):
    """Refused by us before anything was sent to the gateway: the order brought no means of payment that can be charged."""

    code = "payment_refused"
    refusal = True


class NoDeliveryAddress(PaymentRefused):
    """The order has no `shipping_info`: what cannot be delivered is not charged."""

    code = "no_delivery_address"

    def __init__(self) -> None:
        super().__init__("the order has no shipping_info: what cannot be shipped is not charged")


class PaymentError(StepError):
    """Something at the payment gateway; `error_code` is the gateway's own word."""

    code = "payment_error"
    others_words = True
    unclear_refunds: int = 0
    """How many refunds of the order were asked for without a clear answer, this one included."""

    def __init__(self, error_code: str, error_message: str, *, retryable: bool = False) -> None:
        self.error_code = error_code
        self.error_message = error_message
        self.retryable = retryable
        super().__init__(f"{error_message} ({error_code})")

    def reword(self, change: Callable[[str], str]) -> None:
        super().reword(change)
        self.error_message = change(self.error_message)

    def details(self) -> dict[str, Any]:
        told = {**super().details(), "error_code": self.error_code, "error_message": self.error_message}
        return {**told, "unclear_refunds": self.unclear_refunds} if self.unclear_refunds else told


class PaymentDeclined(PaymentError):
    """The bank said no. Trying the same card again does not help."""

    code = "payment_declined"
    refusal = True

    def __init__(self, error_code: str, error_message: str) -> None:
        super().__init__(error_code, error_message, retryable=False)


class PaymentLapsed(PaymentDeclined):
    """The payment was cancelled before it was confirmed, such as when the customer did not authenticate it in time."""

    code = "payment_lapsed"


class PaymentGatewayTimeout(PaymentError):
    """No answer in time: the money may or may not have moved. Look it up before anything is sent again."""

    code = "payment_timeout"

    def __init__(self, error_message: str) -> None:
        super().__init__("timeout", error_message, retryable=True)


BAD_ANSWER = "bad_answer"
"""The `error_code` of an answer that makes no sense."""


class PaymentGatewayError(PaymentError):
    """The gateway failed or could not be reached; `retryable` says whether it may recover by itself."""

    code = "payment_gateway_error"


class PaymentMismatch(PaymentGatewayError):
    """The gateway's answer is about another order, amount or currency than ours: it counts neither as a charge nor as none."""

    code = "payment_mismatch"

    def __init__(self, differs: str) -> None:
        super().__init__("payment_mismatch", f"the gateway's answer is about another {differs} than the order's", retryable=True)


class PaymentGatewayUnavailable(PaymentGatewayError):
    """The gateway has failed again and again and is left alone for a while. What was sent before counts as done until looked up."""

    code = "payment_gateway_unavailable"

    def __init__(self, retry_after: float) -> None:
        super().__init__("circuit_open", "the payment gateway is away and is left alone for a while", retryable=True)
        self.retry_after = retry_after


class PaymentKeyRefused(PaymentGatewayError):
    """The gateway does not accept our key. No order is to blame for that: none is undone, they wait until the key is set anew."""

    code = PaymentGatewayUnavailable.code  # to an order, and to who is to be told, it is the same: nobody can be charged just now

    def __init__(self, error_message: str, retry_after: float) -> None:
        super().__init__("authentication", error_message, retryable=True)
        self.retry_after = retry_after


class PaymentNeedsCustomer(PaymentError):
    """The customer's bank waits for the customer, to whom the shop's page has to show its question (3-D Secure). Nothing has been charged
    yet. The order waits, and keeps its stock."""

    code = "payment_needs_customer"
    refusal = True
    keeps_resources = True

    def __init__(self, retry_after: float) -> None:
        super().__init__("requires_action", "the customer's bank asks the customer to authenticate", retryable=True)
        self.retry_after = retry_after


class RefundRefused(PaymentError):
    """The gateway will not give the money back: a person has to."""

    code = "refund_refused"

    def __init__(
        self, error_code: str, error_message: str, *, payment_id: str, charged: Decimal, refunded: Decimal, currency: str, refusals: int
    ) -> None:
        self.payment_id, self.charged, self.refunded, self.currency = payment_id, charged, refunded, currency
        self.refusals = refusals
        """How often it has been refused, this time included."""
        super().__init__(error_code, error_message, retryable=False)

    @property
    def amount_at_risk(self) -> Decimal:
        return self.charged - self.refunded

    def details(self) -> dict[str, Any]:
        return {
            **super().details(),
            "compensation_status": "failed",
            "requires_manual_refund": True,
            "payment_id": self.payment_id,
            "amount_charged": str(self.charged),
            "refunded_amount": str(self.refunded),
            "amount_at_risk": str(self.amount_at_risk),
            "currency": self.currency,
            "refusals": self.refusals,
        }


class ReservationLost(StepError):
    """The reservation ran out, or was ended, before the parcel left: what it held may be another's by now."""

    code = "reservation_lost"


class InventoryUnavailable(StepError):
    """The inventory service cannot be reached just now, or fails. What it was asked may have been done all the same: look it up."""

    code = "inventory_unavailable"
    retryable = True

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class InventoryTimeout(InventoryUnavailable):
    """No answer in time: the stock may or may not have moved."""

    code = "inventory_timeout"


class InventoryMismatch(InventoryUnavailable):
    """The inventory service's answer is about another order or other items than ours: it counts neither as done nor as refused."""

    code = "inventory_mismatch"

    def __init__(self, differs: str) -> None:
        super().__init__(f"the inventory service answered {differs}")


class InventoryRefused(StepError):
    """The inventory service understood and says no, for a reason that is neither stock nor time."""

    code = "inventory_refused"
    others_words = True


class InventoryMisconfigured(StepError):
    """The inventory service does not accept us, or is none; names the setting. Trying again does not help."""

    code = "inventory_misconfigured"


class CarrierRefused(StepError):
    """The carrier does not take this parcel, such as for an address that it does not serve."""

    code = "carrier_refused"
    others_words = True
    refusal = True


class CarrierUnavailable(StepError):
    """The carrier cannot be reached just now, or fails. What it was asked may have been done all the same: look it up."""

    code = "carrier_unavailable"
    retryable = True

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class CarrierTimeout(CarrierUnavailable):
    """No answer in time: a label may or may not have been bought."""

    code = "carrier_timeout"


class CarrierMismatch(CarrierUnavailable):
    """The carrier's answer is about another parcel than the order's, or contradicts an earlier one: it counts neither as a label nor as
    none."""

    code = "carrier_mismatch"

    def __init__(self, differs: str) -> None:
        super().__init__(f"the carrier's answer is about another {differs} than the order's")


class CarrierMisconfigured(StepError):
    """The carrier does not accept our account; names the setting. Trying again does not help."""

    code = "carrier_misconfigured"


class VoidRefused(StepError):
    """The carrier does not take back a label that was not used: a person has to."""

    code = "void_refused"
    others_words = True


def refusals() -> frozenset[str]:
    """The codes of every business refusal: the engine's and this module's."""
    known = (*vars(engine_errors).values(), *globals().values())
    kinds = (each for each in known if isinstance(each, type) and issubclass(each, StepError))
    return frozenset(kind.code for kind in kinds if kind.refusal)
