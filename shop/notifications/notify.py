"""Telling the customer that the order is on its way, and the CRM that they were told. One transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from saga.database import Tx
from shop.notifications import outbox
from shop.notifications.kinds import Kind
from shop.notifications.notices import Notice, tell
from shop.orders.order import OrderInstance
from shop.shipping import fulfilment

_OF_THE_LABEL = ("tracking_number", "booked_at", "shipment_id")
"""What printing it needs to know."""


class NotificationResult(BaseModel):
    """What `notify_customer` produces. `queued`: in the outbox, which sends it now and tries until it is sent."""

    notification_status: Literal["queued"] = "queued"
    email_to: Literal["customer", "support"]
    """`support` when the customer has given no address."""
    crm_updated: bool = True


async def notify(tx: Tx, orders: Sequence[OrderInstance]) -> dict[str, NotificationResult]:
    """Puts the confirmation into the outbox and the contact into the CRM, once for an order."""
    notices = []
    for order in orders:
        confirmation, shipment = order.result(outbox.CONFIRMATION_STEP), order.result(fulfilment.STEP)
        details = {"tracking_number": shipment["tracking_number"], "written_by": confirmation.get("generation_model")}
        label = {field: shipment.get(field) for field in _OF_THE_LABEL}
        notices.append(Notice(order.id, order.payload.customer_id, Kind.CONFIRMATION, label, details))
    await tell(tx, notices)
    return {order.id: NotificationResult(email_to="customer" if order.payload.customer_email else "support") for order in orders}
