"""The flow of the pending lane: many orders share each task run."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from flows.attention_artifact import artifacts_shown
from flows.consumers import following_load, place_among_consumers
from flows.jobs import run_due_jobs
from flows.order_picture import report_takeovers
from flows.order_saga import ORDER_SAGA
from flows.progress import Progress
from saga import wakeup
from saga.database import is_database_error
from saga.lease import lease
from saga.prefect.consumer import Consumer
from saga.prefect.termination import cancelled_by_sigterm
from saga.shares import share
from shop.monitoring import outcome_counter
from shop.monitoring.sampler import sampling
from shop.notifications import outbox
from shop.orders.order import Order, OrderInstance
from shop.orders.store import ORDERS
from shop.payments.gateways import PAYMENT_GATEWAY
from shop.runtime.garbage import reduced_garbage_collection
from shop.settings import settings
from tasks.background import deliver_outbox

_MAIL_DELAY_SECONDS = 10
"""While orders are processed, sends only mail that has been due for this long."""
_IDLE_SECONDS = 0.25
"""Time without any order after which the consumer counts as idle."""
_OUTBOX_POLL_SECONDS = 5
"""Poll interval for retries of the outbox, while the consumer is idle."""
_JOBS_POLL_SECONDS = 1
"""Interval between two checks for periodic jobs that are due."""
_MAILS_AT_ONCE = 250
"""Limits the messages of one `deliver_outbox` task run: about a tenth of a second, after which orders have
priority again."""
Seconds = Annotated[
    float | None,
    Field(
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description=(
            "How long to keep claiming orders, in seconds; 0: until none is waiting. "
            "Default: CONSUMER_SECONDS"
        ),
    ),
]
BatchSize = Annotated[
    int | None,
    Field(ge=1, le=5_000, description="Limits how many orders share each task run. Default: BATCH_SIZE"),
]


def _run_name() -> str:
    return f"pending orders from {datetime.now(UTC):%H:%M:%S}"


@flow(name="process-pending-orders", flow_run_name=_run_name, persist_result=False)
async def process_pending_orders(
    consumer_seconds: Seconds = None, batch_size: BatchSize = None
) -> dict[str, int]:
    """Takes waiting orders, and those whose worker died, to their outcomes; up to `batch_size` share each
    task run.

    Keeps consuming for `consumer_seconds`, so that new orders find a running consumer; PostgreSQL notifies it
    of them. Meanwhile it also does the periodic jobs of `housekeeping` that are due. Up to `MOST_CONSUMERS`
    of these runs claim orders, on any number of workers; others wait for their turn.
    """
    seconds = settings().workers.consumer_seconds if consumer_seconds is None else consumer_seconds
    consumer = Consumer(
        ORDER_SAGA, ORDERS, batch_size=batch_size or settings().batch_size, on_claimed=_report_claimed
    )
    with (
        reduced_garbage_collection(),
        sampling("consumer", flow_run_id=str(flow_run.id)),
        outcome_counter.counting() as counts,
    ):
        progress = Progress(counts, lambda: consumer.claimed)
        async with (
            cancelled_by_sigterm(),
            wakeup.listening(ORDERS, wakeup.WAITING, consuming=True) as listener,
            lease(ORDERS) as lease_id,
            place_among_consumers(lease_id, seconds),
            share(PAYMENT_GATEWAY, ORDERS, lease_id, wanted=settings().payments.concurrency),
            following_load(consumer, lease_id),
        ):
            progress.begin()
            try:
                async with artifacts_shown():
                    await consumer.run(lease_id, listener, seconds, _work_beside if seconds else _send_mail)
                await progress.end()
            finally:
                await progress.stop()
    return {"orders": consumer.claimed, "batches": consumer.started}


def _report_claimed(orders: Sequence[OrderInstance]) -> None:
    get_run_logger().info(
        "claimed %s", f"order {orders[0].id}" if len(orders) == 1 else f"{len(orders)} orders"
    )
    report_takeovers(orders)


async def _work_beside(consumer: Consumer[Order]) -> None:
    """What the consumer does beside its orders."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_send_mail(consumer), name="send-mail")
        tasks.create_task(_keep_house(consumer), name="keep-house")


async def _keep_house(consumer: Consumer[Order]) -> None:
    """Runs the periodic jobs that are due, until everything claimed has ended."""
    while not consumer.all_claimed.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(_JOBS_POLL_SECONDS):
                await consumer.all_claimed.wait()
                return
        for job, error in (await _run_jobs(consumer)).items():
            get_run_logger().warning("%s failed (%s): a later run tries again", job, type(error).__name__)


async def _run_jobs(consumer: Consumer[Order]) -> dict[str, Exception]:
    """Runs the jobs that are due; returns the errors of those that failed."""
    try:
        async with consumer.exclusive() as allowed:
            return (await run_due_jobs()).failed if allowed else {}
    except Exception as error:
        if not is_database_error(error):
            raise
        return {"looking for due jobs": error}


async def _send_mail(consumer: Consumer[Order]) -> None:
    """Sends the messages of the outbox. Orders have priority: while there are any, sends only messages that
    have been due for some time."""
    while True:
        over, is_quiet = consumer.all_claimed.is_set(), consumer.runner.idle_for(_IDLE_SECONDS)
        if await _send_some_mail(consumer, waited=0 if over or is_quiet else _MAIL_DELAY_SECONDS):
            continue
        if over:
            return
        with suppress(TimeoutError):
            # not wait_for, which before Python 3.12 can swallow a cancellation
            async with asyncio.timeout(_OUTBOX_POLL_SECONDS if is_quiet else _IDLE_SECONDS):
                await (consumer.runner.ended.wait() if is_quiet else consumer.all_claimed.wait())
        consumer.runner.ended.clear()


async def _send_some_mail(consumer: Consumer[Order], *, waited: float) -> bool:
    """Sends messages that have been due for at least this many seconds. Returns whether any was sent."""
    try:
        async with consumer.exclusive() as allowed:
            return (
                allowed
                and await outbox.is_due(waited=waited)
                and (await deliver_outbox(_MAILS_AT_ONCE))["sent"] > 0
            )
    except Exception as error:
        if not is_database_error(error):
            raise
        return False
