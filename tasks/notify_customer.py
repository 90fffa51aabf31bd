"""Step 6: tell the customer. Past the pivot: a failure here never undoes an order, it is tried again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shop.database import Tx
from shop.notifications.notify import NotificationResult, notify
from shop.under_way import OrderUnderWay
from tasks.step import database_step


@database_step()
async def notify_customer(tx: Tx, orders: Sequence[OrderUnderWay]) -> Mapping[str, NotificationResult]:
    """Puts the confirmation into the outbox, from where it is sent until it is, and the contact into the CRM."""
    return await notify(tx, orders)
