"""The housekeeping flow: what a running consumer does beside its orders, for times when none runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from prefect import flow
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from flows.attention_artifact import artifacts_shown
from flows.consumers import start_missing_consumer
from flows.jobs import run_all_jobs, run_due_jobs
from flows.lost_runs import store_order_of
from flows.order_picture import report_takeovers
from flows.order_saga import ORDER_SAGA
from flows.runs import timed
from saga import claims
from saga.database import is_database_error, transaction
from saga.prefect.batch import run_claimed
from shop.notifications import outbox
from shop.orders.order import OrderInstance
from shop.orders.store import ORDERS
from shop.settings import settings
from tasks.background import deliver_outbox

CrashedRun = Annotated[
    UUID | None, Field(description="A run of process-order or process-pending-orders that crashed")
]
OnlyDue = Annotated[
    bool, Field(description="Skip the jobs that a consumer or another run has done in the last minute")
]
_MAILS_AT_ONCE = 200


@flow(name="housekeeping", flow_run_name=timed("housekeeping"), persist_result=False)
async def housekeeping(crashed_run: CrashedRun = None, only_due: OnlyDue = False) -> dict[str, int]:
    """Runs the periodic jobs (lost runs, expired reservations, retries of compensations, payment events,
    alert rules, dashboard); takes over orders whose lease expired, and takes them to their outcome by the
    same saga; then sends the remaining messages of the outbox, and starts a consumer if one is missing.

    `crashed_run`: waits until that run's lease has expired. Raises the errors of jobs that failed, when
    everything else is done.
    """
    stored = await _stored(crashed_run)
    async with artifacts_shown():
        done = await (run_due_jobs() if only_due else run_all_jobs())
        begun_only = crashed_run is None and not stored and not done.counts.get("orders_stored")
        recovered = await _recover(crashed_run, begun_only=begun_only)
    sent = 0
    while await outbox.is_due() and (now_sent := (await deliver_outbox(_MAILS_AT_ONCE))["sent"]):
        sent += now_sent
    if await _consumer_started():
        get_run_logger().warning("orders waited and no consumer claimed them: a consumer was started")
    get_run_logger().info("%d orders recovered, %d messages sent", recovered, sent)
    if done.failed:
        raise ExceptionGroup(f"jobs failed: {', '.join(done.failed)}", list(done.failed.values()))
    return {"recovered": recovered, "messages_sent": sent, **done.counts}


async def _stored(crashed_run: UUID | None) -> bool:
    """Stores the crashed run's order, if it died before it stored it; returns whether it did. Logs an error
    of the Prefect server: the search for lost runs finds the order later."""
    try:
        return crashed_run is not None and bool(await store_order_of(crashed_run))
    except Exception as error:
        if is_database_error(error):
            raise
        get_run_logger().warning("reading run %s failed (%s)", crashed_run, type(error).__name__)
        return False


async def _recover(crashed_run: UUID | None, *, begun_only: bool) -> int:
    # A run whose lease is still renewed at the deadline is alive.
    deadline = time.monotonic() + 3 * settings().lease_seconds

    async def claim(lease_id: UUID, survived: int) -> Sequence[OrderInstance]:
        orders = await claims.claim_batch(
            ORDERS,
            lease_id,
            most=settings().batch_size,
            only_begun=begun_only,
            flow_run_id=str(flow_run.id),
            known=ORDER_SAGA.names,
            survived=survived,
        )
        report_takeovers(orders)
        return orders

    async def wait_for_lease() -> bool:
        if (
            crashed_run is None
            or time.monotonic() > deadline
            or (left := await _lease_left(crashed_run)) is None
        ):
            return False
        await asyncio.sleep(min(max(left, 0) + 0.05, 1))
        return True

    return await run_claimed(ORDER_SAGA, ORDERS, claim, wait_for_lease)


async def _lease_left(run_id: UUID) -> float | None:
    async with transaction() as tx:
        return await claims.lease_left(tx, ORDERS, str(run_id))


async def _consumer_started() -> bool:
    """Starts a consumer if one is missing; returns whether it did. For workers other than
    `deployments.worker`, which checks this itself."""
    try:
        return await start_missing_consumer()
    except Exception as error:  # noqa: BLE001  (recovery continues without a Prefect server, or without that deployment)
        get_run_logger().warning("checking whether a consumer is missing failed (%s)", type(error).__name__)
        return False
