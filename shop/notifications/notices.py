"""Notices to customers: which ones an order causes, and how they are added in one transaction: a mail in the
outbox, a contact in the shop's CRM table, and (with `CRM_WEBHOOK_URL`) a webhook to an external CRM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel
from sqlalchemy import text

from saga.database import Tx, as_json
from shop.inventory.errors import OutOfStock
from shop.notifications import outbox
from shop.notifications.kinds import Kind, crm_kind
from shop.notifications.stored import CONFIRMATION_STEP
from shop.orders.order import OrderInstance, customer_of
from shop.orders.outcomes import Outcome
from shop.orders.tries import CANCELLED, try_number
from shop.payments.charge import STEP as PAYMENT
from shop.payments.errors import NoDeliveryAddress, PaymentRefused
from shop.settings import settings
from shop.shipping.carriers import STEP as SHIPPING

_INTERACT = text(
    "INSERT INTO customer_interaction (customer_id, order_id, kind, details, try_number) "
    "SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) "
    "AS r(customer_id text, order_id text, kind text, details jsonb, try_number int) ON CONFLICT DO NOTHING"
)
INCOMPLETE = frozenset({NoDeliveryAddress.code, PaymentRefused.code})
"""Failures because the order lacks required data."""
_CONTACTS = {kind: f"order_{kind}" for kind in Kind}


@dataclass(frozen=True, slots=True)
class Notice:
    """A message about an order that has to be sent."""

    order_id: str
    customer_id: str | None
    """None for a guest."""
    kind: Kind
    payload: dict[str, Any]
    """The mail's content, besides the order and its confirmation's text."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the CRM stores, without card data and addresses."""
    try_number: int = 1
    """The order's try that causes it."""


async def add_notices(tx: Tx, notices: Sequence[Notice]) -> None:
    """Adds the notices, once per order, try and kind: a second call changes nothing. They are sent after the
    commit."""
    if not notices:
        return
    messages = [outbox.Message(n.order_id, n.kind, n.payload, n.try_number) for n in notices]
    if settings().crm.webhook_url:
        messages += [
            outbox.Message(
                n.order_id,
                crm_kind(n.kind),
                {"customer_id": n.customer_id, "contact": _CONTACTS[n.kind], **n.details},
                n.try_number,
            )
            for n in notices
        ]
    contacts = [
        {
            "customer_id": n.customer_id,
            "order_id": n.order_id,
            "kind": _CONTACTS[n.kind],
            "details": n.details,
            "try_number": n.try_number,
        }
        for n in notices
    ]
    await outbox.put(tx, messages)
    await tx.execute(_INTERACT, {"rows": as_json(contacts)})


async def withdraw(tx: Tx, order_ids: Sequence[str], kind: Kind) -> None:
    """Deletes the orders' messages of this kind, for the customer and the CRM, that are not sent yet."""
    await outbox.withdraw(tx, order_ids, [kind, crm_kind(kind)])


_PARCEL_FIELDS = ("tracking_number", "booked_at", "shipment_id")
"""The fields of the shipment that the mail needs, and fetching its label from an external carrier."""


class NotificationResult(BaseModel):
    """The result of `notify_customer`. `queued`: in the outbox, which retries until it is sent."""

    notification_status: Literal["queued"] = "queued"
    email_to: Literal["customer", "support"]
    """`support` if the customer has no e-mail address."""
    crm_updated: bool = True


async def notify(tx: Tx, orders: Sequence[OrderInstance]) -> dict[str, NotificationResult]:
    """Puts the confirmation into the outbox and the contact into the CRM, once per order."""
    notices = []
    for order in orders:
        confirmation, shipment = order.result(CONFIRMATION_STEP), order.result(SHIPPING)
        details = {
            "tracking_number": shipment.get("tracking_number"),
            "written_by": confirmation.get("generation_model"),
        }
        parcel = {field: shipment.get(field) for field in _PARCEL_FIELDS}
        customer, number = order.payload.customer_id, try_number(order)
        notices.append(Notice(order.id, customer, Kind.CONFIRMATION, parcel, details, number))
    await add_notices(tx, notices)
    return {
        order.id: NotificationResult(email_to="customer" if order.payload.customer_email else "support")
        for order in orders
    }


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
