"""Taking up orders that a person, or the clock, has opened again: the same saga, with what is still due."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from prefect.runtime import flow_run

from flows import board
from flows.lane import GRACE_SECONDS, Lane
from flows.order_picture import show_order
from flows.saga import ORDER_SAGA
from flows.termination import cancelled_by_sigterm
from shop import journal, signals
from shop.lease import lease
from shop.notifications import outbox
from shop.notifications.kinds import ALL_OF_AN_ORDER
from shop.outcomes import OrderOutcome
from shop.report import read_one
from shop.settings import settings
from shop.under_way import OrderUnderWay
from tasks.deliver_outbox import deliver_outbox


async def take_up(order_ids: Sequence[str]) -> int:
    """Takes those of the orders that nobody has in hand to their outcome. Returns how many; whoever has the others takes them there."""
    taken = 0
    async with cancelled_by_sigterm(), lease() as mine:
        lane = Lane()
        try:
            while orders := await _claim(mine, order_ids):
                taken += len(orders)
                lane.start(orders)
                await lane.finish_up()
                lane.check()
        except BaseException:  # what is not finished then is handed back with the lease
            await lane.finish_up(GRACE_SECONDS)
            raise
    return taken


async def to_its_outcome(order_id: str) -> OrderOutcome:
    """Takes the order to its outcome, or waits for the worker that has it in hand; the customer is told then."""
    async with signals.listening(signals.FINISHED) as bell:
        while (known := await read_one(order_id)) is None or known.outcome is None:
            if not await take_up([order_id]):
                await bell.wait(settings().poll_seconds)
    if await outbox.is_due([order_id]):
        await deliver_outbox(ALL_OF_AN_ORDER, [order_id])
    await show_order(order_id)
    await board.settle()
    return known


async def _claim(mine: UUID, order_ids: Sequence[str]) -> list[OrderUnderWay]:
    return await journal.take(mine, most=len(order_ids), ids=order_ids, flow_run_id=str(flow_run.id), known=ORDER_SAGA.names)
