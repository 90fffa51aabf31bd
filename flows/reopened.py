"""Resumes an order that a person has reopened: the same saga, with what is still due."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from prefect.runtime import flow_run

from flows.attention_artifact import artifacts_shown
from flows.order_picture import show_order
from flows.order_saga import ORDER_SAGA
from saga import claims, wakeup
from saga.prefect.batch import run_claimed
from shop.notifications import outbox
from shop.notifications.kinds import ALL_OF_AN_ORDER
from shop.orders.order import OrderInstance
from shop.orders.outcomes import OrderOutcome
from shop.orders.report import read_one
from shop.orders.store import ORDERS
from shop.settings import settings
from tasks.background import deliver_outbox


async def _run(order_id: str) -> bool:
    """Takes the order to its outcome, unless a worker has claimed it. Returns whether it did."""

    async def claim(lease_id: UUID, _survived: int) -> Sequence[OrderInstance]:
        run = str(flow_run.id)
        return await claims.claim_batch(
            ORDERS, lease_id, most=1, ids=[order_id], flow_run_id=run, known=ORDER_SAGA.names
        )

    return await run_claimed(ORDER_SAGA, ORDERS, claim) > 0


async def finish_reopened(order_id: str) -> OrderOutcome:
    """Takes the order to its outcome, or until it waits for a transfer, or waits for the worker that has
    claimed it; then sends its mail and shows its page."""
    async with artifacts_shown():
        known = await _wait_for_outcome(order_id)
        if await outbox.is_due([order_id]):
            await deliver_outbox(ALL_OF_AN_ORDER, [order_id])
        await show_order(order_id)
    return known


async def _wait_for_outcome(order_id: str) -> OrderOutcome:
    async with wakeup.listening(ORDERS, wakeup.FINISHED) as listener:
        while (known := await read_one(order_id)) is None or (
            known.outcome is None and not known.awaits_money
        ):
            if not await _run(order_id):
                await listener.wait(settings().poll_seconds)
    return known
