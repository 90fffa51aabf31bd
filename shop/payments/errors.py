"""Errors of payments: refusals by the bank, by the gateway and by us; failures of the gateway."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from saga.errors import StepError


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
