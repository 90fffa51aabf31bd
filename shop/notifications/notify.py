"""Telling the customer that the order is on its way: a mail in the outbox, and a line in the CRM. One transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel
from sqlalchemy import text

from shop.database import Tx, as_json
from shop.notifications import outbox
from shop.shipping import fulfilment
from shop.under_way import OrderUnderWay

_OF_THE_LABEL = ("tracking_number", "booked_at", "shipment_id")
"""What printing it needs to know."""
_INTERACT = text(
    "INSERT INTO customer_interaction (customer_id, order_id, kind, details) "
    "SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(customer_id text, order_id text, kind text, details jsonb) "
    "ON CONFLICT DO NOTHING"
)


class NotificationResult(BaseModel):
    """What `notify_customer` produces. `queued`: in the outbox, which sends it now and tries until it is sent."""

    notification_status: Literal["queued"] = "queued"
    email_to: Literal["customer", "support"]
    """`support` when the customer has given no address."""
    crm_updated: bool = True


async def notify(tx: Tx, orders: Sequence[OrderUnderWay]) -> dict[str, NotificationResult]:
    """Puts the confirmation into the outbox and the contact into the CRM, once for an order."""
    messages, contacts = [], []
    for order in orders:
        confirmation, shipment = order.result(outbox.CONFIRMATION_STEP), order.result(fulfilment.STEP)
        messages.append(outbox.Message(order.id, outbox.Kind.CONFIRMATION, {field: shipment.get(field) for field in _OF_THE_LABEL}))
        details = {"tracking_number": shipment["tracking_number"], "written_by": confirmation.get("generation_model")}
        contacts.append({"customer_id": order.order.customer_id, "order_id": order.id, "kind": "order_confirmation", "details": details})
    await outbox.put(tx, messages)
    await tx.execute(_INTERACT, {"rows": as_json(contacts)})
    return {order.id: NotificationResult(email_to="customer" if order.order.customer_email else "support") for order in orders}
