"""Step 6: tell the customer. Past the pivot: a failure here never undoes an order, it is tried again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from shop.database import Tx
from shop.notifications.notify import NotificationResult, notify
from shop.under_way import OrderUnderWay
from tasks.step import database_step

log = logging.getLogger("shop.completed")


def log_completion(order: OrderUnderWay) -> None:
    """One line for each order that the customer will hear of."""
    log.info(
        "order %s: shipped as %s, confirmation queued", order.id, order.result("fulfill_order").get("tracking_number"), extra=_about(order)
    )


def _about(order: OrderUnderWay) -> dict[str, str]:
    return {"order_id": order.id}


@database_step(after=log_completion)
async def notify_customer(tx: Tx, orders: Sequence[OrderUnderWay]) -> Mapping[str, NotificationResult]:
    """Puts the confirmation into the outbox, from where it is sent until it is, and the contact into the CRM."""
    return await notify(tx, orders)
