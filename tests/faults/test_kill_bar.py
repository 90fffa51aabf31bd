"""Every run process of a worker is killed for a while, with the schedules off:
soon after the last kill every order is claimed again."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from deployments.local.prefect_server import PrefectServer
from deployments.local.programs import Worker
from deployments.standby_run import NO_RUN
from deployments.trigger import submit_orders, wake_pending_lane
from tests.conftest import HOME
from tests.faults.witness import all_ended, assert_right, mixed, order_of
from tests.integration.world import World
from tests.waiting import until

_BAR_SECONDS = 15
"""From the last kill until every order is claimed, on a machine with nothing else to do."""


@pytest.fixture
def prompt_worker(deployed: World, frail_prefect: PrefectServer, tmp_path: Path) -> Iterator[Worker]:
    """A process worker of that server, with the usual lease."""
    worker = Worker(
        home=HOME,
        logs=tmp_path / "logs",
        pids=frail_prefect.folder / "run",
        environment=frail_prefect.client_environment,
        name=f"kill-bar-{tmp_path.name}",
    )
    try:
        worker.start(frail_prefect.api_url)
        yield worker
    finally:
        worker.stop(grace=10)


def runs_of(worker: Worker, run_id: str | None = None) -> list[psutil.Process]:
    """The processes of the worker's flow runs, or of this one."""
    found = []
    for process in psutil.Process(worker.pid).children(recursive=True):
        with suppress(psutil.Error):
            its_run = process.environ().get("PREFECT__FLOW_RUN_ID")
            if its_run not in {None, str(NO_RUN)} and run_id in {None, its_run}:
                found.append(process)
    return found


def kill_runs(worker: Worker) -> int:
    """Kills every run process there is; returns how many."""
    killed = 0
    for process in runs_of(worker):
        with suppress(psutil.Error):
            process.kill()
            killed += 1
    return killed


def leases(world: World) -> list[str]:
    return [str(row.id) for row in world.sql("SELECT id FROM lease")]


def unclaimed(world: World, dead: list[str]) -> int:
    """How many orders wait for somebody: without a lease, or under one of the dead."""
    return int(
        world.sql(
            "SELECT count(*) FROM customer_order "
            "WHERE outcome IS NULL AND (not_before IS NULL OR not_before <= now()) "
            "AND (lease_id IS NULL OR CAST(lease_id AS text) = ANY(CAST(:dead AS text[])))",
            dead=dead,
        )[0][0]
    )


@pytest.mark.alone
@pytest.mark.parametrize(
    ("number", "seconds"),
    [(300, 6.0), pytest.param(1500, 12.0, marks=pytest.mark.slow)],
    ids=["short", "full"],
)
async def test_orders_are_claimed_soon_after_the_last_kill(
    deployed: World,
    prompt_worker: Worker,
    unique: str,
    report_line: Callable[[str], None],
    number: int,
    seconds: float,
) -> None:
    orders = mixed(unique, number, flaky=False)
    submit_orders(orders.values())
    assert await asyncio.to_thread(wake_pending_lane)
    pauses, kills = random.Random(1), 0
    deployed.misbehave(latency_ms=300)  # or everything is over before the kills are
    try:
        last = time.monotonic()
        end = last + seconds
        while time.monotonic() < end or not kills:
            await asyncio.sleep(pauses.uniform(0.5, 2.5))
            if now_killed := kill_runs(prompt_worker):
                kills, last = kills + now_killed, time.monotonic()
    finally:
        deployed.misbehave(latency_ms=0)
    dead = leases(deployed)
    assert unclaimed(deployed, dead), "there is nothing to recover: the test shows nothing"

    async def claimed() -> bool:
        return unclaimed(deployed, dead) == 0

    await until(claimed, _BAR_SECONDS, "every order to be claimed")
    took = time.monotonic() - last
    report_line(f"{number} orders, {kills} runs killed: all claimed {took:.1f} s after the last kill")
    assert took < _BAR_SECONDS, f"{took:.1f} s from the last kill until all orders were claimed"

    late = order_of("good", f"{unique}-late")
    submit_orders([late])

    async def ended() -> bool:
        return all_ended(deployed)

    await until(ended, 90, "all orders to end")
    assert_right(deployed, {**orders, late["id"]: late})


@pytest.mark.slow
async def test_a_lock_holder_that_does_nothing_is_no_consumer(
    deployed: World, prompt_worker: Worker, unique: str
) -> None:
    """A process holds the consumers' lock and claims nothing.
    Submitting finds the lock taken and starts no consumer; the worker does."""
    from saga.wakeup import WAITING, listening
    from shop.orders.store import ORDERS

    async with listening(ORDERS, WAITING, consuming=True):
        order = order_of("good", unique)
        submit_orders([order])
        assert await asyncio.to_thread(wake_pending_lane)

        async def ended() -> bool:
            return all_ended(deployed)

        await until(ended, 40, "the order to end")
    assert_right(deployed, {order["id"]: order})


@pytest.mark.slow
async def test_one_start_at_a_time(deployed: World, frail_prefect: PrefectServer, unique: str) -> None:
    """However many processes check, and however often: while one consumer is starting, none starts
    another."""
    from flows.consumers import PATIENCE_SECONDS, Watch, start_consumer
    from tests.faults.runs import consumers_of

    before = len(consumers_of(frail_prefect))
    watches = [Watch() for _ in range(4)]
    submit_orders([order_of("good", unique)])
    end = time.monotonic() + PATIENCE_SECONDS + 3
    while time.monotonic() < end:
        await asyncio.gather(*(watch.look() for watch in watches))
        await asyncio.sleep(0.2)
    assert not await asyncio.to_thread(start_consumer)
    assert await asyncio.to_thread(wake_pending_lane)
    assert len(consumers_of(frail_prefect)) - before == 1


@pytest.mark.slow
async def test_a_worker_that_is_paused_is_not_taken_for_one_at_work(
    deployed: World, prompt_worker: Worker, unique: str
) -> None:
    """A consumer is stopped (SIGSTOP) while it holds orders:
    other workers complete those, and what is submitted afterwards."""
    deployed.misbehave(latency_ms=500)
    orders = mixed(unique, 30, flaky=False)
    submit_orders(orders.values())
    assert await asyncio.to_thread(wake_pending_lane)
    stopped: list[int] = []

    async def at_work() -> bool:
        return bool(deployed.sql("SELECT 1 FROM customer_order WHERE fence > 0"))

    try:
        await until(at_work, 40, "a consumer at work")
        for process in runs_of(prompt_worker):
            process.suspend()
            stopped.append(process.pid)
        deployed.misbehave(latency_ms=0)
        late = order_of("good", f"{unique}-late")
        submit_orders([late])

        async def ended() -> bool:
            return all_ended(deployed)

        await until(ended, 60, "all orders to end elsewhere")
        assert_right(deployed, {**orders, late["id"]: late})
    finally:
        deployed.misbehave(latency_ms=0)
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
