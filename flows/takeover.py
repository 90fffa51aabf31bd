"""Saying that an order is taken over from a worker that let go of it: which, from where on, how often."""

from __future__ import annotations

from collections.abc import Sequence

from prefect.logging import get_run_logger

from flows.saga import ORDER_SAGA
from shop.under_way import OrderUnderWay

_TOLD_ONE_BY_ONE = 20


def tell_of_takeovers(orders: Sequence[OrderUnderWay]) -> None:
    """Logs each order that somebody had begun before; a crowd of them in one line."""
    resumed = [order for order in orders if order.fence > 1]
    log = get_run_logger()
    for order in resumed[:_TOLD_ONE_BY_ONE]:
        done = [step.name for step in ORDER_SAGA if order.done(step.name)]
        far = f"done so far: {', '.join(done)}" if done else "nothing done yet"
        why = "its worker's lease ran out" if order.takeovers else "its worker handed it back"
        if order.cancel_reason is not None and order.failure is None:
            why = "it is to be cancelled"
        then = "it goes on being undone" if order.failure else "it goes on"
        log.info("recovering order %s (%s): %s; %s", order.id, why, far, then)
    if len(resumed) > _TOLD_ONE_BY_ONE:
        log.info("recovering %d more orders", len(resumed) - _TOLD_ONE_BY_ONE)
