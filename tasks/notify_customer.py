"""Step 6: notifies the customer. It comes after the pivot: a failure is retried and never compensates an
order."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from saga.database import Tx
from saga.prefect.steps import database_step
from shop.notifications.notify import NotificationResult, notify
from shop.orders.order import OrderInstance

log = logging.getLogger("shop.completed")


def log_completion(order: OrderInstance) -> None:
    """Logs one line for each order whose confirmation is queued."""
    log.info(
        "order %s: shipped as %s, confirmation queued",
        order.id,
        order.result("fulfill_order").get("tracking_number"),
        extra=_about(order),
    )


def _about(order: OrderInstance) -> dict[str, str]:
    return {"order_id": order.id}


@database_step(after=log_completion)
async def notify_customer(tx: Tx, orders: Sequence[OrderInstance]) -> Mapping[str, NotificationResult]:
    """Puts the confirmation and the CRM's contact into the outbox, from which they are delivered until
    delivery succeeds."""
    return await notify(tx, orders)
