"""Payment errors: refusals by the bank, the gateway or the shop, and failures of the gateway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from saga.errors import StepError


class PaymentRefused(StepError):
    """The shop refused before anything was sent to the gateway:
    the order has no chargeable payment method."""

    code = "payment_refused"
    refusal = True


class NoDeliveryAddress(PaymentRefused):
    """The order has no `shipping_info`. What cannot be delivered is not charged."""

    code = "no_delivery_address"

    def __init__(self) -> None:
        super().__init__("the order has no shipping_info, and what cannot be shipped is not charged")


class PaymentError(StepError):
    """An error of the payment gateway. `error_code` is the gateway's own code."""

    code = "payment_error"
    quotes_external_system = True
    unclear_refunds: int = 0
    """The number of refund requests of the order that had no clear answer, including this one."""
    before_request: bool = False
    """Whether a look-up failed before the request was sent."""

    def __init__(
        self,
        error_code: str,
        error_message: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        self.error_code, self.error_message = error_code, error_message
        self.retryable, self.retry_after = retryable, retry_after
        super().__init__(f"{error_message} ({error_code})")

    def reword(self, change: Callable[[str], str]) -> None:
        super().reword(change)
        self.error_message = change(self.error_message)

    def details(self) -> dict[str, Any]:
        details = {**super().details(), "error_code": self.error_code, "error_message": self.error_message}
        return {**details, "unclear_refunds": self.unclear_refunds} if self.unclear_refunds else details


class PaymentDeclined(PaymentError):
    """The bank declined the payment. Retrying with the same card does not help."""

    code = "payment_declined"
    refusal = True

    def __init__(self, error_code: str, error_message: str) -> None:
        super().__init__(error_code, error_message, retryable=False)


class PaymentLapsed(PaymentDeclined):
    """The payment was cancelled before it was confirmed, for example because the customer did not
    authenticate it in time."""

    code = "payment_lapsed"


class PaymentGatewayTimeout(PaymentError):
    """The gateway did not answer in time: the money may or may not have moved. Look it up before sending
    again."""

    code = "payment_timeout"

    def __init__(self, error_message: str) -> None:
        super().__init__("timeout", error_message, retryable=True)


BAD_ANSWER = "bad_answer"
"""The `error_code` of an answer that could not be interpreted."""


class PaymentGatewayError(PaymentError):
    """The gateway failed or was unreachable. `retryable` says whether it may recover by itself."""

    code = "payment_gateway_error"


def bad_answer(message: str) -> PaymentGatewayError:
    """Returns the error for an answer that could not be interpreted: the request may have been executed."""
    return PaymentGatewayError(BAD_ANSWER, message, retryable=True)


class PaymentMismatch(PaymentGatewayError):
    """The gateway's answer differs from the order, for example in its amount. It counts neither as a charge
    nor as no charge."""

    code = "payment_mismatch"

    def __init__(self, differs: str) -> None:
        super().__init__(
            "payment_mismatch",
            f"the gateway's answer differs from the order in its {differs}",
            retryable=True,
        )


class PaymentGatewayUnavailable(PaymentGatewayError):
    """The circuit breaker is open: no calls to the gateway during a cooldown period after repeated failures.
    Requests that were sent before count as done until they are looked up."""

    code = "payment_gateway_unavailable"

    def __init__(self, retry_after: float) -> None:
        message = "the payment gateway failed repeatedly: no calls to it during a cooldown period"
        super().__init__("circuit_open", message, retryable=True, retry_after=retry_after)


class PaymentKeyRefused(PaymentGatewayError):
    """The gateway does not accept the API key. This is a configuration error: no order is compensated, orders
    wait until a valid key is set."""

    code = PaymentGatewayUnavailable.code  # the same for orders and alerts: nothing can be charged

    def __init__(self, error_message: str, retry_after: float) -> None:
        super().__init__("authentication", error_message, retryable=True, retry_after=retry_after)


class PaymentNeedsCustomer(PaymentError):
    """The customer's bank requires the customer to authenticate (3-D Secure), on the shop's page. Nothing has
    been charged. The order waits, and keeps its stock."""

    code = "payment_needs_customer"
    refusal = True
    keeps_resources = True

    def __init__(self, retry_after: float) -> None:
        message = "the customer's bank requires the customer to authenticate"
        super().__init__("requires_action", message, retryable=True, retry_after=retry_after)


class PaymentAwaited(PaymentError):
    """The order is paid by transfer, and the money has not come yet. It waits, and keeps its stock."""

    code = "payment_awaited"
    refusal = True
    keeps_resources = True

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__("awaited", message, retryable=True, retry_after=retry_after)


class PaidOtherwise(PaymentRefused):
    """The order says that it is paid already, and the payment gateway says something else."""

    code = "paid_otherwise"


class NotReceivable(StepError):
    """Money cannot be recorded as received for an order. Names every problem with its field, which may be
    empty."""

    code = "not_receivable"
    refusal = True

    def __init__(self, *problems: tuple[str, str]) -> None:
        self.problems = problems
        super().__init__("; ".join(self.reasons()))

    def reasons(self) -> list[str]:
        return [f"{field}: {what}" if field else what for field, what in self.problems]


class PayableOrderUnknown(NotReceivable):
    """There is no such order."""

    code = "no_such_order"


class AmountInvalid(NotReceivable):
    """The amount has more decimals than the order's currency."""


class ReferenceConflict(NotReceivable):
    """The reference was recorded before with another amount."""

    code = "reference_conflict"


class NotPaidThisWay(NotReceivable):
    """The order is paid neither by transfer nor on delivery."""

    code = "not_paid_this_way"


class PaymentsNotRecorded(StepError):
    """Some of several payments cannot be recorded, so none was. Carries the error of each by its position."""

    code = "payments_not_recorded"
    refusal = True

    def __init__(self, errors: Mapping[int, NotReceivable]) -> None:
        self.errors = dict(errors)
        super().__init__("; ".join(f"payment {n + 1}: {error}" for n, error in self.errors.items()))


class RefundRefused(PaymentError):
    """The gateway refused the refund: a person has to refund the customer."""

    code = "refund_refused"

    def __init__(
        self,
        error_code: str,
        error_message: str,
        *,
        currency: str,
        payment_id: str = "",
        charged: Decimal = Decimal(0),
        refunded: Decimal = Decimal(0),
        refusals: int = 1,
        elsewhere: Decimal = Decimal(0),
        settled: Decimal = Decimal(0),
    ) -> None:
        self.payment_id, self.charged, self.refunded, self.currency = payment_id, charged, refunded, currency
        self.elsewhere = elsewhere
        """What others have taken for the order, besides the gateway, and a person has not settled yet."""
        self.settled = settled
        """What a person has settled of what the gateway has charged."""
        self.refusals = refusals
        """The number of refusals, including this one."""
        super().__init__(error_code, error_message, retryable=False)

    @property
    def amount_at_risk(self) -> Decimal:
        return max(self.charged - self.refunded - self.settled, Decimal(0)) + self.elsewhere

    def details(self) -> dict[str, Any]:
        return {
            **super().details(),
            "compensation_status": "failed",
            "requires_manual_refund": True,
            "payment_id": self.payment_id,
            "amount_charged": str(self.charged),
            "refunded_amount": str(self.refunded),
            "amount_elsewhere": str(self.elsewhere),
            "amount_at_risk": str(self.amount_at_risk),
            "currency": self.currency,
            "refusals": self.refusals,
            **({UNDECIDED: True} if self.error_code == PAID_AND_REJECTED else {}),
        }


UNDECIDED = "undecided"
"""Field of a refused refund that a person has to decide: true; false once one has."""
PAID_ELSEWHERE = "paid_elsewhere"
PAID_AND_REJECTED = "paid_and_rejected"


class PaidElsewhere(RefundRefused):
    """A refund that a person has to make: the gateway never had the money."""

    code = PAID_ELSEWHERE


class PaidAndRejected(RefundRefused):
    """A refund that a person has to decide: the order is paid, and was not valid."""

    code = PAID_AND_REJECTED
