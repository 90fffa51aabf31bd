"""Undoing what was done, in the reverse of the sequence in which it was begun; each undo is a task run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import groupby

from prefect.logging import get_logger

from flows import board
from flows.saga import ORDER_SAGA
from flows.waiting import has_to_wait, let_wait
from shop.ending import finish, give_up_undoing, remember_failures
from shop.errors import BatchStruggling, LeaseLost, OrderError, RecordedFailure
from shop.outcomes import Outcome
from shop.saga import Step
from shop.settings import settings
from shop.under_way import OrderUnderWay
from shop.work import Work
from tasks.step import run

log = get_logger("orders")


async def compensate(orders: Sequence[OrderUnderWay]) -> dict[str, Outcome]:
    """Takes failed orders to their outcome. Orders that have the same to undo share the task runs.

    A compensation that fails, after its retries, stays due: the others are still done, and the order ends in `needs_attention`.
    """
    if due := [order for order in orders if order.undo_plan() or order.done(ORDER_SAGA.pivot)]:
        await remember_failures(due, pivot=ORDER_SAGA.pivot)
    if deadly := [order for order in due if order.undo_plan() and order.lone_deaths >= 2 * (settings().max_takeovers + 1)]:
        log.error("undoing stops the workers of %s: it is left to a person", ", ".join(order.id for order in deadly))
        await give_up_undoing(deadly)
        due = [order for order in due if order not in deadly]
    due.sort(key=OrderUnderWay.undo_plan)
    for plan, same in groupby(due, key=OrderUnderWay.undo_plan):
        group = list(same)
        for name in plan:
            group = [order for order in group if not order.lost]  # those that have to wait go on from here
            if group:
                await undo_step(ORDER_SAGA[name], group)
    outcomes = await finish(orders, ORDER_SAGA)
    if Outcome.NEEDS_ATTENTION in outcomes.values() or any(isinstance(order.failure, RecordedFailure) for order in orders):
        board.changed()
    return outcomes


async def undo_step(step: Step, orders: Sequence[OrderUnderWay]) -> None:
    """Runs one step's compensation for some orders. Raises only when the database is in trouble."""
    work = Work(step, orders, undo=True, patience=settings().straggler_seconds)
    try:
        await run(work)
    except BatchStruggling as struggling:
        log.warning("%s; they are undone one by one", struggling)
    except LeaseLost as lost:  # one of them; the others go on
        log.warning("order %s has been taken over by another worker", lost)
    except OrderError as failure:
        if has_to_wait(failure):
            await let_wait(dict.fromkeys(orders, failure))
            return
        log.warning("%s of %s could not be done: %s", getattr(step.undo, "name", step.name), work.title, failure)
    await let_wait(work.waiting)
    await asyncio.gather(*(undo_step(step, [order]) for order in work.alone))
