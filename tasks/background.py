"""Tasks of the periodic jobs, and the delivery of messages: what happens to orders outside their steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import task_run

from saga.database import transaction
from saga.wakeup import WAITING, notification
from shop.inventory.expiry import expire_reservations
from shop.notifications import outbox
from shop.orders.names import run_name
from shop.orders.store import ORDERS
from shop.payments.events.handling import Handled, handle
from shop.payments.events.inbox import PaymentEvent
from shop.payments.gateways import gateway
from shop.review import reopening

_REOPENED_AT_ONCE = 100
"""Limits the orders that are reopened together; the next run takes the rest."""


def _outbox_run_name() -> str:
    order_ids = task_run.parameters.get("order_ids") or []
    return run_name("deliver_outbox", {"id": order_ids[0]}) if len(order_ids) == 1 else "deliver_outbox"


@task(name="deliver_outbox", task_run_name=_outbox_run_name, cache_policy=NO_CACHE, persist_result=False)
async def deliver_outbox(most: int, order_ids: Sequence[str] | None = None) -> dict[str, int]:
    """Sends up to `most` messages that are due (of these orders). Failed ones are retried later."""
    sent, failed = await outbox.deliver(most=most, order_ids=order_ids)
    return {"sent": sent, "failed": failed}


@task(name="release_expired_reservations", cache_policy=NO_CACHE, persist_result=False)
async def release_expired_reservations() -> dict[str, int]:
    """Releases expired reservations of orders that no worker holds. Returns the count."""
    released: list[str] = []
    while expired := await expire_reservations():
        released += expired
    if released:
        get_run_logger().info("expired reservations are released: %s", ", ".join(released))
    return {"reservations_released": len(released)}


@task(name="reopen_due_orders", cache_policy=NO_CACHE, persist_result=False)
async def reopen_due_orders() -> list[str]:
    """Reopens orders whose pause is over, and wakes the consumers. Returns their ids."""
    async with transaction(reopening.REOPENING) as tx:
        if reopened := await reopening.reopen_due(tx, most=_REOPENED_AT_ONCE):
            await tx.execute(notification(ORDERS, WAITING))
    get_run_logger().info("compensations are retried: %s", ", ".join(reopened) or "of no order")
    return reopened


class Hint:
    """An event and its result; a plain object, so that Prefect does not traverse it."""

    def __init__(self, event: PaymentEvent) -> None:
        self.event = event
        self.handled: Handled | None = None


def _event_run_name() -> str:
    return str(task_run.parameters["hint"].event.type)[:100]


@task(name="handle_payment_event", task_run_name=_event_run_name, cache_policy=NO_CACHE, persist_result=False)
async def handle_payment_event(hint: Hint) -> dict[str, Any]:
    """Handles the event. Without retries: if the gateway cannot answer now, a later run handles it."""
    hint.handled = handled = await handle(hint.event, gateway())
    return {"event": hint.event.id, "order": handled.order_id, "done": handled.done}
