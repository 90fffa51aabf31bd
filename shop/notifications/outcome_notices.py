"""Selects the notice for an order that has reached its outcome, or that waits for its money."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from shop.inventory.errors import OutOfStock
from shop.notifications.kinds import Kind
from shop.notifications.notices import Notice
from shop.orders.order import OrderInstance, customer_of
from shop.orders.outcomes import Outcome
from shop.orders.tries import CANCELLED, try_number
from shop.payments.charge import STEP as PAYMENT
from shop.payments.errors import NoDeliveryAddress, PaymentRefused

INCOMPLETE = frozenset({NoDeliveryAddress.code, PaymentRefused.code})
"""Failures because the order lacks required data."""


def awaiting_payment(order: OrderInstance, received: Decimal) -> Notice:
    """Returns the notice of an order that waits for a transfer, of which this much has come."""
    content = order.payload
    money = {"amount": str(content.amount_due - received), "currency": content.currency}
    return Notice(order.id, content.customer_id, Kind.AWAITING_PAYMENT, money, money, try_number(order))


def notice_of(
    order: OrderInstance,
    outcome: Outcome,
    *,
    charged: Decimal,
    given_back: Decimal,
    at_risk: Decimal,
    currency: str,
) -> Notice | None:
    """Amounts are those of the order's current try. Returns a refund notice if money was refunded and none is
    at risk. Otherwise, if nothing was charged,
    returns a notice that the payment failed, that the order is incomplete, or that items are out of stock.

    None for an order that was rejected (its sender has the reasons), that was cancelled before it was paid,
    that was shipped, or that is under manual review: its customer is notified when the review is resolved.
    """
    failure, customer, number = order.failure, customer_of(order.content), try_number(order)

    def notice(kind: Kind, payload: dict[str, Any], details: dict[str, Any]) -> Notice:
        return Notice(order.id, customer, kind, payload, details, number)

    if given_back > 0 and not at_risk and outcome is not Outcome.COMPLETED:
        money = {"amount": str(given_back), "currency": currency}
        return notice(Kind.REFUND, {**money, "why": failure.kind if failure else None}, money)
    if failure is None or charged or outcome not in {Outcome.COMPENSATED, Outcome.OUT_OF_STOCK}:
        return None
    if failure.kind == OutOfStock.code:
        shortages = failure.details().get("shortages", [])
        products = {"products": [s["product_id"] for s in shortages]}
        return notice(Kind.OUT_OF_STOCK, {"shortages": shortages}, products)
    why = {"why": failure.kind}
    if failure.kind in INCOMPLETE:
        return notice(Kind.INCOMPLETE, why, why)
    if order.failing_step == PAYMENT and failure.kind not in CANCELLED:
        return notice(Kind.PAYMENT_FAILED, why, why)
    return None
