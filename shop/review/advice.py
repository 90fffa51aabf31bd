"""What a person can do about an order under manual review, in a sentence or two."""

from __future__ import annotations

from saga.errors import StepTimeout
from shop.inventory.errors import InventoryMismatch
from shop.payments.errors import (
    PaidAndRejected,
    PaidElsewhere,
    PaymentGatewayError,
    PaymentGatewayTimeout,
    RefundRefused,
)
from shop.review.attention import ReviewCase
from shop.shipping.errors import CarrierMismatch, CarrierTimeout, CarrierUnavailable, VoidRefused
from shop.values.money import show

_CARRIER_UNAVAILABLE = frozenset({CarrierUnavailable.code, CarrierTimeout.code})
_CONTRADICTIONS = frozenset({CarrierMismatch.code, InventoryMismatch.code})
_NOT_ANSWERED = frozenset({PaymentGatewayError.code, PaymentGatewayTimeout.code, StepTimeout.code})


def advice(case: ReviewCase) -> str:
    """Returns what to do. Words in quotes are those of the `resolve-order` form."""
    if case.being_retried:
        return (
            "Nothing now: it is being retried. "
            "To refund in another way nevertheless: resolve-order with 'hold' first."
        )
    if case.error_code == PaidAndRejected.code:
        return (
            "The order is paid and was not valid; nothing was shipped or refunded. "
            "Correct what its reasons name, then order-saga retry: its payment stays. "
            "If it cannot be corrected, resolve-order with 'retry_now' refunds what the gateway has; "
            "give back what others have, then 'refunded_by_hand' with the reference."
        )
    if case.error_code == PaidElsewhere.code:
        amount = show(case.amount_at_risk, case.currency)
        return (
            f"Others than the gateway have {amount} for this order: paid already, by gift card, by transfer "
            "or on delivery. Give it back where it was paid, then resolve-order with 'refunded_by_hand' "
            "and the reference; or 'written_off', if it was never paid. Trying again cannot help."
        )
    if case.error_code == RefundRefused.code:
        amount = show(case.amount_at_risk, case.currency)
        return (
            f"The gateway refuses to refund {amount}. "
            "Run resolve-order: 'hold', then refund it in another way, "
            "then 'refunded_by_hand' with the reference; "
            "or 'retry_now' once the gateway accepts the refund "
            "(or you made it in the gateway's dashboard); or 'written_off'."
        )
    if case.error_code == VoidRefused.code:
        return (
            "The carrier does not take the label back. Claim the refund in the carrier's dashboard, "
            "then resolve-order with 'retry_now'; or 'written_off' to accept its cost."
        )
    if case.error_code in _CONTRADICTIONS:
        return (
            "The external system's record differs from the request. "
            "Look the order up in the carrier's or the inventory service's system and correct it there; "
            "then resolve-order with 'retry_now', or 'written_off'."
        )
    if case.error_code in _CARRIER_UNAVAILABLE:
        return (
            "The carrier gave no clear answer. It is retried automatically; "
            "resolve-order with 'retry_now' retries at once."
        )
    if case.error_code in _NOT_ANSWERED:
        return (
            "The gateway gave no clear answer. It is retried automatically; "
            "resolve-order with 'retry_now' retries at once."
        )
    return (
        "See the compensation's task run for the error. "
        "Once its cause is fixed: resolve-order with 'retry_now'; or 'written_off'."
    )
