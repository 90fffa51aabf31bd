"""Selects the notice for an order that has reached its outcome."""

from __future__ import annotations

from decimal import Decimal

from saga.errors import SagaCancelled, SagaReturned
from shop.inventory.errors import OutOfStock
from shop.notifications.kinds import Kind
from shop.notifications.notices import Notice
from shop.orders.order import OrderInstance
from shop.orders.outcomes import Outcome
from shop.payments.charge import STEP as PAYMENT
from shop.payments.errors import NoDeliveryAddress, PaymentRefused

_ASKED_FOR = frozenset({SagaCancelled.code, SagaReturned.code})
INCOMPLETE = frozenset({NoDeliveryAddress.code, PaymentRefused.code})
"""Failures because the order lacks required data."""


def notice_of(
    order: OrderInstance,
    outcome: Outcome,
    *,
    charged: Decimal,
    given_back: Decimal,
    at_risk: Decimal,
    currency: str,
) -> Notice | None:
    """Returns a refund notice if money was refunded and none is at risk. Otherwise, if nothing was charged,
    returns a notice that the payment failed, that the order is incomplete, or that items are out of stock.

    None for an order that was rejected (its sender has the reasons), that was cancelled before it was paid,
    that was shipped, or that is under manual review: its customer is notified when the review is resolved.
    """
    failure, customer = order.failure, str(order.content.get("customer_id"))
    if given_back > 0 and not at_risk:
        money = {"amount": str(given_back), "currency": currency}
        return Notice(
            order.id, customer, Kind.REFUND, {**money, "why": failure.kind if failure else None}, money
        )
    if failure is None or charged or outcome not in {Outcome.COMPENSATED, Outcome.OUT_OF_STOCK}:
        return None
    if failure.kind == OutOfStock.code:
        shortages = failure.details().get("shortages", [])
        return Notice(
            order.id,
            customer,
            Kind.OUT_OF_STOCK,
            {"shortages": shortages},
            {"products": [s["product_id"] for s in shortages]},
        )
    if failure.kind in INCOMPLETE:
        return Notice(order.id, customer, Kind.INCOMPLETE, {"why": failure.kind}, {"why": failure.kind})
    if order.failing_step == PAYMENT and failure.kind not in _ASKED_FOR:
        return Notice(order.id, customer, Kind.PAYMENT_FAILED, {"why": failure.kind}, {"why": failure.kind})
    return None
