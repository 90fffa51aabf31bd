"""The periodic jobs that keep orders moving: the running consumer does them beside its orders, and the flow
`housekeeping` when no consumer runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from prefect.logging import get_run_logger

from flows import attention_artifact
from flows.lost_runs import store_lost_orders
from flows.reconcile_payments import emit_events
from flows.show_dashboard import refresh_dashboard
from saga.shares import share
from shop.orders.store import ORDERS
from shop.payments.events import inbox
from shop.payments.events.handling import Handled
from shop.payments.gateways import PAYMENT_GATEWAY
from shop.review import reopening
from shop.runtime import turns
from tasks.alerts import evaluate_alerts
from tasks.background import (
    Hint,
    handle_payment_event,
    release_expired_reservations,
    reopen_due_orders,
)

_EVENTS_AT_ONCE = 8


async def retry_compensations() -> dict[str, int]:
    """Reopens the orders under manual review whose pause is over (`REVIEW_RETRY_SECONDS`, doubling up to
    `REVIEW_RETRY_MAX_SECONDS`), and shows the review queue and the undelivered messages in the UI. Skips
    orders on hold."""
    reopened = await reopen_due_orders() if await reopening.is_retry_due() else []
    await attention_artifact.show_review_queue()
    await attention_artifact.show_undelivered()
    return {"retried": len(reopened)}


async def handle_payment_events() -> dict[str, int]:
    """Handles the stored events that are due. If this process dies, another one handles the rest.

    For a discrepancy that needs a person it emits `order.reconciliation.discrepancy`, as a reconciliation
    does. Whoever claims a reopened order continues it.
    """
    ended: list[Handled] = []
    while events := await inbox.claim(most=_EVENTS_AT_ONCE):
        hints = [Hint(event) for event in events]
        async with share(PAYMENT_GATEWAY, ORDERS, wanted=len(hints)):
            await asyncio.gather(*(handle_payment_event(hint) for hint in hints))
        for hint in hints:
            if (handled := hint.handled) is not None:
                get_run_logger().info(
                    "%s of %s: %s", hint.event.type, handled.order_id, handled.done or "later"
                )
                emit_events([each for each in handled.found if not each.repaired])
                ended.append(handled)
    if any(each.review_changed or each.reopened for each in ended):
        await attention_artifact.show_review_queue()
    done = sum(each.done is not None for each in ended)
    return {"events_handled": done, "events_postponed": len(ended) - done}


@dataclass(frozen=True, slots=True)
class Job:
    """A periodic job. `run` returns what it did, as counts. What it changes for an order is in task runs, so
    that people see it."""

    name: str
    run: Callable[[], Awaitable[dict[str, int]]]
    pause: float = 60
    """Seconds from its end until it is due again."""


JOBS = (
    Job("store_lost_orders", store_lost_orders),
    Job("release_expired_reservations", release_expired_reservations),
    Job("retry_compensations", retry_compensations),
    Job(inbox.JOB, handle_payment_events),  # also due as soon as an event is stored
    Job("evaluate_alerts", evaluate_alerts),
    Job("refresh_dashboard", refresh_dashboard, pause=120),
)
_NAMES = tuple(job.name for job in JOBS)


@dataclass(slots=True)
class Done:
    """What jobs did: their counts, and the errors of those that failed."""

    counts: dict[str, int] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)


async def run_due_jobs() -> Done:
    """Runs the jobs that are due, and that no other process runs now. Raises database errors of asking which
    are due; the jobs' own errors are in the result."""
    due = await turns.take(_NAMES)
    return await _run([job for job in JOBS if job.name in due])


async def run_all_jobs() -> Done:
    """Runs all jobs, whenever they ran last."""
    return await _run(JOBS)


async def _run(jobs: Sequence[Job]) -> Done:
    done = Done()
    for job in jobs:
        try:
            done.counts |= await job.run()
        except Exception as error:  # noqa: BLE001  (one job's trouble must not stop the others)
            done.failed[job.name] = error
        await turns.end({job.name: job.pause})
    return done
