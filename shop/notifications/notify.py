"""Notifies the customer that the order was shipped,
and records the contact in the CRM, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel

from saga.database import Tx
from shop.notifications.kinds import Kind
from shop.notifications.notices import Notice, add_notices
from shop.notifications.stored import CONFIRMATION_STEP
from shop.orders.order import OrderInstance
from shop.orders.tries import try_number
from shop.shipping import fulfilment

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
        confirmation, shipment = order.result(CONFIRMATION_STEP), order.result(fulfilment.STEP)
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
