"""The periodic jobs that keep orders moving: the running consumer does them beside its orders, and the flow
`housekeeping` when no consumer runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from flows.lost_runs import store_lost_orders
from flows.payment_events import handle_payment_events
from flows.retries import retry_compensations
from flows.show_dashboard import refresh_dashboard
from shop.payments.events import inbox
from shop.runtime import turns
from tasks.evaluate_alerts import evaluate_alerts
from tasks.expire_reservations import release_expired_reservations


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
