"""Step 6: notifies the customer. It comes after the pivot: a failure is retried and never compensates an
order."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from saga.database import Tx
from saga.prefect.steps import database_step
from shop.notifications.notices import NotificationResult, notify
from shop.orders.order import OrderInstance

log = logging.getLogger("shop.completed")


_ORDERS_PER_LINE = 100
"""Limits the ids in one log line: a line for each order takes as long as all that is done for the order."""


def log_completion(orders: Sequence[OrderInstance]) -> None:
    """Logs which orders were shipped and have their confirmation queued: a single one with its tracking
    number, a batch with the ids of up to 100 orders in one line."""
    if len(orders) == 1:
        number = orders[0].result("fulfill_order").get("tracking_number")
        about = {"order_id": orders[0].id}
        how = f"shipped as {number}" if number else "nothing to ship"
        log.info("order %s: %s, confirmation queued", orders[0].id, how, extra=about)
        return
    for place in range(0, len(orders), _ORDERS_PER_LINE):
        ids = [order.id for order in orders[place : place + _ORDERS_PER_LINE]]
        log.info("%d orders: shipped, confirmations queued", len(ids), extra={"order_ids": ids})


@database_step(after=log_completion)
async def notify_customer(tx: Tx, orders: Sequence[OrderInstance]) -> Mapping[str, NotificationResult]:
    """Puts the confirmation and the CRM's contact into the outbox, from which they are delivered until
    delivery succeeds."""
    return await notify(tx, orders)
