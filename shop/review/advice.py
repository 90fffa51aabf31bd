"""What a person can do about an order on the desk, in a sentence or two."""

from __future__ import annotations

from saga.errors import StepTimeout
from shop.inventory.errors import InventoryMismatch
from shop.payments.errors import PaymentGatewayError, PaymentGatewayTimeout, RefundRefused
from shop.review.attention import ReviewCase
from shop.shipping.errors import CarrierMismatch, CarrierTimeout, CarrierUnavailable, VoidRefused
from shop.values.money import show

_CARRIER_AWAY = frozenset({CarrierUnavailable.code, CarrierTimeout.code})
_CONTRADICTIONS = frozenset({CarrierMismatch.code, InventoryMismatch.code})
_NOT_ANSWERED = frozenset({PaymentGatewayError.code, PaymentGatewayTimeout.code, StepTimeout.code})


def advice(case: ReviewCase) -> str:
    """What to do. The words in quotes are those of the `resolve-order` form."""
    if case.being_retried:
        return "Nothing just now: it is being tried again. To pay it back in another way all the same: resolve-order with 'hold' first."
    if case.error_code == RefundRefused.code:
        amount = show(case.amount_at_risk, case.currency)
        return (
            f"The gateway refuses to give {amount} back. Run resolve-order: 'hold', then pay it back in another way, then "
            "'refunded_by_hand' with the reference; or 'retry_now' once the gateway will do it (or did it, in its own dashboard); "
            "or 'written_off'."
        )
    if case.error_code == VoidRefused.code:
        return (
            "The carrier does not take the label back. Claim it in the carrier's own dashboard, then resolve-order with 'retry_now'; or "
            "'written_off', and the label stays paid."
        )
    if case.error_code in _CONTRADICTIONS:
        return (
            "What is there is not what was asked for. Look the order up in the carrier's, or the inventory service's, own "
            "books, and put it right there; then resolve-order with 'retry_now', or 'written_off'."
        )
    if case.error_code in _CARRIER_AWAY:
        return "The carrier gave no clear answer. It is tried again by itself; resolve-order with 'retry_now' does it at once."
    if case.error_code in _NOT_ANSWERED:
        return "The gateway gave no clear answer. It is tried again by itself; resolve-order with 'retry_now' does it at once."
    return "See the compensation's task run for what went wrong. Once that is mended: resolve-order with 'retry_now'; or 'written_off'."
