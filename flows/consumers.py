"""How many consumers run: starts one when orders wait, and ends those that are not needed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from saga import claims, wakeup
from saga.asyncio_tasks import cancel_and_wait
from saga.clock import database_time_sync
from saga.database import sync_engine, transaction
from saga.limit import Limit
from saga.prefect.consumer import Consumer
from saga.shares import Share, holders, holders_sync
from shop.orders.order import Order
from shop.orders.store import ORDERS
from shop.settings import settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

log = logging.getLogger("shop.consumers")

CONSUMERS = Limit("consumers", most=lambda: 1, total=lambda: settings().workers.most_consumers)
"""The limit of consumers that claim orders, of all workers together. A consumer has its place under its
lease, so that the place of one that was killed or paused is free when the lease expires."""
CONSUMER = "process-pending-orders/process-pending-orders"
"""The deployment that consumes waiting orders."""
_LONGEST_WAIT_SECONDS = 1
"""How long the oldest order may wait while consumers are at full capacity, before another one is started."""
_IDLE_SECONDS = 15
"""How long a consumer has nothing to do before it leaves the orders to a younger one."""
_PLACE_SECONDS = 60
"""How much longer than its own time a consumer waits until it may claim orders."""
PATIENCE_SECONDS = 3
"""How long the oldest unattended order may stay so before a consumer counts as missing. A running consumer
looks for orders every second, and one that died leaves its lease: the next one is ready when that expires."""
LOOK_SECONDS = 1
"""Interval between two checks."""
_STARTING_SECONDS = 10
"""A run that began to run within this time counts as starting: it may not have claimed anything yet."""
_PENDING_SECONDS = 30
"""A run that has been Pending for longer has lost its worker, and does not count as starting."""
_FREE_TRIES = 12
"""How many consumers may be started without effect (killed, for example) before the pause between starts
grows."""
_LONGEST_PAUSE_SECONDS = 30
"""Limits the pause between two starts, and between two checks that fail."""
_RUNS_LOOKED_AT = 50
"""Limits how many of the latest consumer runs are read to find one that is starting."""
_LIMIT_SECONDS = 15
"""Timeout of one check, if the database or the Prefect server does not answer."""


class TooManyConsumers(Exception):
    """`MOST_CONSUMERS` consumers run, and none of them ends."""

    def __init__(self) -> None:
        super().__init__("MOST_CONSUMERS consumers run already, and none of them has ended")


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
            oldest = await claims.oldest_unattended(tx, ORDERS)
            now = time.monotonic()
            if oldest is None or oldest != self._oldest:
                self._oldest, self._since, self._not_before, self._tries = oldest, now, 0.0, 0
                return False
            if now - self._since < PATIENCE_SECONDS or now < self._not_before:
                return False
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


@asynccontextmanager
async def place_among_consumers(lease_id: UUID, seconds: float) -> AsyncIterator[None]:
    """Waits until fewer than `MOST_CONSUMERS` consumers claim orders, and counts as one while its body runs.
    Raises `TooManyConsumers` after this time and a minute."""
    place = Share(CONSUMERS, ORDERS, lease_id, 1)
    if not await place.take(seconds + _PLACE_SECONDS):
        raise TooManyConsumers
    try:
        yield
    finally:
        await place.give_back()


@asynccontextmanager
async def following_load(consumer: Consumer[Order], lease_id: UUID) -> AsyncIterator[None]:
    """While its body runs, starts another consumer when orders wait although this one has as many as it can
    process, and ends this one when it has nothing to do and a younger one runs."""
    following = asyncio.create_task(_keep_following(consumer, lease_id), name="follow-load")
    try:
        yield
    finally:
        await cancel_and_wait([following])


async def _keep_following(consumer: Consumer[Order], lease_id: UUID) -> None:
    began, pause = time.monotonic(), float(LOOK_SECONDS)
    while True:
        await asyncio.sleep(pause)
        is_idle = time.monotonic() - began > _IDLE_SECONDS and consumer.runner.idle_for(_IDLE_SECONDS)
        try:
            await _follow_load(consumer, lease_id, is_idle=is_idle)
        except Exception as error:  # noqa: BLE001  (no answer from the database or the Prefect server)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            log.warning(
                "checking whether consumers are needed failed (%s); retrying in %.0f s",
                type(error).__name__,
                pause,
            )
        else:
            pause = LOOK_SECONDS


async def _follow_load(consumer: Consumer[Order], lease_id: UUID, *, is_idle: bool) -> None:
    async with transaction() as tx:
        running = await holders(tx, ORDERS, CONSUMERS)
        too_few = consumer.is_full and await claims.has_waited(tx, ORDERS, seconds=_LONGEST_WAIT_SECONDS)
    most, is_youngest = CONSUMERS.total(), running[-1:] and running[-1].lease_id == lease_id
    # More than the limit run only when one continues after its lease had expired, or the limit was lowered.
    is_surplus = lease_id in [each.lease_id for each in running if each.held][most:]
    if is_surplus or (is_idle and not is_youngest):
        log.info("this consumer ends: another one runs, and is enough")
        consumer.leave()
    elif too_few and len(running) < most and await asyncio.to_thread(start_consumer):
        log.info("orders wait for longer than %g s: another consumer was started", _LONGEST_WAIT_SECONDS)


def _running_consumers() -> int:
    """Returns how many consumers have renewed their leases on time."""
    with sync_engine(settings().database_url).connect() as connection:
        return sum(each.renewed for each in holders_sync(connection, ORDERS, CONSUMERS))


def start_consumer() -> bool:
    """Starts a consumer, unless `MOST_CONSUMERS` run, one is about to start, or another process is starting
    one. Returns whether it started one. Raises the errors of the database and of the Prefect client."""
    from prefect.client.orchestration import get_client
    from prefect.states import Scheduled

    with wakeup.starting_consumer(ORDERS) as mine:
        if not mine or _running_consumers() >= CONSUMERS.total():
            return False
        with get_client(sync_client=True) as client:
            deployment, now = client.read_deployment_by_name(CONSUMER), database_time_sync()
            if _is_starting(client, deployment.id, now):
                return False
            # Without a scheduled time, this machine's clock would decide when it is due.
            client.create_flow_run_from_deployment(deployment.id, state=Scheduled(scheduled_time=now))
    return True


def wake_pending_lane() -> bool:
    """Makes sure that a consumer processes waiting orders: submitting has woken a running one; if none
    runs or is about to start, starts one. Returns False if the Prefect server does not answer: a worker,
    or the schedule, starts one when it is available."""
    try:
        if wakeup.is_consumer_running(ORDERS):
            return True
        start_consumer()
    except Exception as error:  # noqa: BLE001  (any error: the orders are stored, and the schedule starts a consumer)
        log.warning(
            "no consumer is running, and none could be started (%s): the orders wait for a worker",
            type(error).__name__,
        )
        return False
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
