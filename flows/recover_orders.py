"""The recovery flow: resumes interrupted orders, without waiting for a consumer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from flows.closing import artifacts_shown
from flows.consumers import start_missing_consumer
from flows.lost_runs import store_lost_orders, store_order_of
from flows.order_saga import ORDER_SAGA
from flows.run_names import timed
from flows.takeover import report_takeovers
from saga import claims
from saga.database import is_database_error, transaction
from saga.prefect.batch import run_claimed
from shop.inventory.expiry import expire_reservations
from shop.notifications import outbox
from shop.orders.order import OrderInstance
from shop.orders.store import ORDERS
from shop.settings import settings
from tasks.deliver_outbox import deliver_outbox


@task(name="release_expired_reservations", cache_policy=NO_CACHE, persist_result=False)
async def release_expired_reservations() -> list[str]:
    """Releases expired reservations. Returns the orders' ids."""
    released: list[str] = []
    while expired := await expire_reservations():
        released += expired
    return released


CrashedRun = Annotated[
    UUID | None, Field(description="A run of process-order or process-pending-orders that crashed")
]


async def _store_lost_orders(crashed_run: UUID | None) -> list[str]:
    """Stores orders of runs that died before they stored them. Returns the ids. Logs an error of the Prefect
    server and continues, so that the other orders are recovered."""
    stored: list[str] = []
    try:
        if crashed_run is not None:
            stored += await store_order_of(crashed_run)
        stored += await store_lost_orders()
    except Exception as error:
        if is_database_error(error):
            raise
        get_run_logger().warning(
            "searching for lost runs failed (%s): the next recovery searches again", type(error).__name__
        )
    return stored


async def _lease_left(run_id: UUID) -> float | None:
    async with transaction() as tx:
        return await claims.lease_left(tx, ORDERS, str(run_id))


async def _consumer_started() -> bool:
    """Starts a consumer if one is missing; returns whether it did. For other workers than ours, which checks
    this itself."""
    try:
        return await start_missing_consumer()
    except Exception as error:  # noqa: BLE001  (recovery continues without a Prefect server, or without that deployment)
        get_run_logger().warning("checking whether a consumer is missing failed (%s)", type(error).__name__)
        return False


@flow(name="recover-orders", flow_run_name=timed("recovery"), persist_result=False)
async def recover_orders(crashed_run: CrashedRun = None) -> dict[str, int]:
    """Stores the orders of runs that died before they stored them; takes over orders whose lease expired, and
    takes them to their outcome by the same saga; then releases expired reservations, sends the remaining
    messages of the outbox, and starts a consumer if one is missing.

    `crashed_run`: waits until that run's lease has expired.
    """
    stored = await _store_lost_orders(crashed_run)
    begun_only = crashed_run is None and not stored
    # A run whose lease is still renewed at the deadline is alive.
    deadline = time.monotonic() + 3 * settings().lease_seconds

    async def claim(lease_id: UUID, survived: int) -> Sequence[OrderInstance]:
        most, run, known = settings().batch_size, str(flow_run.id), ORDER_SAGA.names
        orders = await claims.claim_batch(
            ORDERS,
            lease_id,
            most=most,
            only_begun=begun_only,
            flow_run_id=run,
            known=known,
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

    async with artifacts_shown():
        recovered = await run_claimed(ORDER_SAGA, ORDERS, claim, wait_for_lease)
        released = await release_expired_reservations()
    sent = 0
    while await outbox.is_due() and (now_sent := (await deliver_outbox(200))["sent"]):
        sent += now_sent
    if await _consumer_started():
        get_run_logger().warning("orders waited and no consumer claimed them: a consumer was started")
    get_run_logger().info(
        "%d orders recovered, %d reservations released, %d messages sent", recovered, len(released), sent
    )
    return {"recovered": recovered, "reservations_released": len(released), "messages_sent": sent}
