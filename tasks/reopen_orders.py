"""Reopens orders under manual review whose compensations are retried."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from saga.database import transaction
from saga.wakeup import WAITING, notification
from shop.orders.store import ORDERS
from shop.review import attention

_AT_ONCE = 100
"""Limits the orders that are reopened together; the next run takes the rest."""


@task(name="reopen_due_orders", cache_policy=NO_CACHE, persist_result=False)
async def reopen_due_orders() -> list[str]:
    """Reopens orders whose pause is over, and wakes the consumers. Returns their ids."""
    async with transaction(attention.REOPENING) as tx:
        if reopened := await attention.reopen_due(tx, most=_AT_ONCE):
            await tx.execute(notification(ORDERS, WAITING))
    get_run_logger().info("compensations are retried: %s", ", ".join(reopened) or "of no order")
    return reopened
