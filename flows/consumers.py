"""Detects that no consumer claims the waiting orders, and starts one."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from saga import claims, wakeup
from saga.clock import database_time_sync
from saga.database import transaction
from shop.orders.store import ORDERS
from shop.settings import settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

log = logging.getLogger("shop.consumers")

CONSUMER = "process-pending-orders/process-pending-orders"
"""The deployment that consumes waiting orders."""
PATIENCE_SECONDS = 3
"""How long the oldest claimable order may wait before a consumer counts as missing. A running consumer looks
for orders every second."""
LOOK_SECONDS = 1
"""Interval between two checks."""
_STARTING_SECONDS = 10
"""A run that began to run within this time counts as starting: it may not have claimed anything yet."""
_PENDING_SECONDS = 30
"""A run that has been Pending for longer has lost its worker, and does not count as starting."""
_FREE_TRIES = 5
"""How many consumers may be started without effect (killed, for example) before the pause between starts
grows."""
_LONGEST_PAUSE_SECONDS = 30
"""Limits the pause between two starts."""
_RUNS_LOOKED_AT = 50
"""Limits how many of the latest consumer runs are read to find one that is starting."""
_LIMIT_SECONDS = 15
"""Timeout of one check, if the database or the Prefect server does not answer."""


class Watch:
    """Observes the waiting orders, and starts a consumer when the oldest one stays unclaimed.

    It observes the orders and not the consumers, so it also detects a consumer that hangs, that was killed
    before it claimed anything, or that holds its lock without working. Consumers claim the oldest order
    first, so an order that stays the oldest means that no consumer claims; or, if the order's workers died
    repeatedly, that the running consumers have other orders, beside which they do not try it: a new consumer
    without orders does. Any number of processes may watch: only one of them starts a consumer, and none does
    while one is about to start.
    """

    def __init__(self) -> None:
        self._oldest: tuple[str, int, bool] | None = None
        self._since = self._not_before = 0.0
        self._tries = 0

    async def look(self) -> bool:
        """Checks once; returns whether it started a consumer. Raises the errors of the database and of the
        Prefect client."""
        async with asyncio.timeout(_LIMIT_SECONDS), transaction() as tx:
            oldest = await claims.oldest_claimable(tx, ORDERS)
            now = time.monotonic()
            if oldest is None or oldest != self._oldest:
                self._oldest, self._since, self._not_before, self._tries = oldest, now, 0.0, 0
                return False
            if now - self._since < PATIENCE_SECONDS or now < self._not_before:
                return False
            full = settings().batch_size * settings().batches_under_way
            if await claims.held_by_live_workers(tx, ORDERS, most=full) >= full:
                return False  # the running consumers are at full capacity
        started = await asyncio.wait_for(asyncio.to_thread(start_consumer), _LIMIT_SECONDS)
        if started:
            self._tries += 1
            self._not_before = now + min(_LONGEST_PAUSE_SECONDS, 2 ** max(0, self._tries - _FREE_TRIES))
            order_id, _, suspected = oldest
            why = (
                "its workers died, so only a consumer without other orders tries it"
                if suspected
                else "no consumer claims it"
            )
            log.warning(
                "order %s has waited for %.0f s, and %s: a consumer was started",
                order_id,
                now - self._since,
                why,
            )
        return started

    @property
    def has_waiting_order(self) -> bool:
        """Whether an order was waiting at the last check."""
        return self._oldest is not None


async def start_missing_consumer() -> bool:
    """Starts a consumer if orders wait and none is claimed for `PATIENCE_SECONDS`; returns whether it did.
    Returns at once if no order waits."""
    watch, until = Watch(), time.monotonic() + 2 * PATIENCE_SECONDS
    while time.monotonic() < until:
        if await watch.look():
            return True
        if not watch.has_waiting_order:
            return False
        await asyncio.sleep(LOOK_SECONDS)
    return False


def start_consumer() -> bool:
    """Starts a consumer, unless one is about to start, or another process is starting one. Returns whether it
    started one. Raises the errors of the Prefect client."""
    from prefect.client.orchestration import get_client
    from prefect.states import Scheduled

    with wakeup.starting_consumer(ORDERS) as mine:
        if not mine:
            return False
        with get_client(sync_client=True) as client:
            deployment, now = client.read_deployment_by_name(CONSUMER), database_time_sync()
            if _is_starting(client, deployment.id, now):
                return False
            # Without a scheduled time, this machine's clock would decide when it is due.
            client.create_flow_run_from_deployment(deployment.id, state=Scheduled(scheduled_time=now))
    return True


def _is_starting(client: SyncPrefectClient, deployment_id: object, now: datetime) -> bool:
    """Returns whether a consumer is due, is being started, or has just begun."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterExpectedStartTime,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    active = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
    runs = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=active)),
            expected_start_time=FlowRunFilterExpectedStartTime(before_=now + timedelta(seconds=1)),
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=_RUNS_LOOKED_AT,
    )
    limits = {StateType.PENDING: _PENDING_SECONDS, StateType.RUNNING: _STARTING_SECONDS}
    for run in runs:
        if run.state is not None:
            age = (now - run.state.timestamp).total_seconds()
            if run.state.type == StateType.SCHEDULED or age < limits[run.state.type]:
                return True
    return False
