"""How many consumers run: more while orders wait, one when there is nothing to do, never too many."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.environment import environment
from deployments.local.prefect_server import PrefectServer
from deployments.local.programs import Worker
from deployments.trigger import submit_orders, wake_pending_lane
from flows.process_pending_orders import process_pending_orders
from shop.orders import intake
from shop.settings import settings
from tests.conftest import HOME
from tests.faults.runs import forget_runs
from tests.faults.test_kill_bar import runs_of
from tests.faults.witness import all_ended, assert_right, mixed, stock_up
from tests.integration.world import World
from tests.waiting import until
from tests.worker_forkserver.forkserver import Forkserver

MOST = 2


def consuming(world: World) -> int:
    """How many consumers may claim orders now."""
    return int(
        world.sql(
            "SELECT count(*) FROM lease WHERE until > now() AND CAST(shares -> 'consumers' ->> 0 AS int) > 0"
        )[0][0]
    )


@pytest.fixture
def most_consumers() -> Iterator[None]:
    with environment({"MOST_CONSUMERS": str(MOST)}):
        settings.cache_clear()
        yield
    settings.cache_clear()


@pytest.mark.usefixtures("most_consumers")
async def test_no_more_consumers_than_the_limit_even_after_kills(
    saga: World, forkserver: Forkserver, unique: str
) -> None:
    """Six start at once: two claim orders. One is killed: the next one takes its place when its lease ends,
    and not before."""
    stock_up(saga)
    consumers = [forkserver.consumer(300) for _ in range(3 * MOST)]
    seen: list[int] = []

    async def full() -> bool:
        seen.append(consuming(saga))
        return seen[-1] == MOST

    await until(full, 30, "two consumers to have places")
    orders = mixed(unique, 40, flaky=False)
    intake.submit(orders.values())
    holder = saga.sql("SELECT holder FROM lease WHERE CAST(shares -> 'consumers' ->> 0 AS int) > 0")[0][0]
    killed = next(each for each in consumers if each.pid == int(holder.rpartition(":")[2]))
    killed.signal(signal.SIGKILL)

    async def replaced() -> bool:
        seen.append(consuming(saga))
        holders = saga.sql(
            "SELECT holder FROM lease WHERE until > now() AND CAST(shares -> 'consumers' ->> 0 AS int) > 0"
        )
        return seen[-1] == MOST and holder not in [each[0] for each in holders]

    await until(replaced, settings().lease_seconds + 5, "another one to take the place")

    async def ended() -> bool:
        seen.append(consuming(saga))
        return all_ended(saga, orders)

    await until(ended, 60, "all orders to end")
    assert max(seen) == MOST
    assert_right(saga, orders)


@pytest.mark.usefixtures("most_consumers")
async def test_an_idle_consumer_leaves_the_orders_to_a_younger_one(
    saga: World, forkserver: Forkserver, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.consumers._IDLE_SECONDS", 2)
    older = asyncio.create_task(process_pending_orders(consumer_seconds=600))

    async def first() -> bool:
        return consuming(saga) == 1

    await until(first, 30, "the first one to run")
    younger = forkserver.consumer(600)
    assert (await asyncio.wait_for(older, 120))["orders"] == 0
    await until(first, 30, "the younger one to have a place")
    stock_up(saga)
    orders = mixed(unique, 5, flaky=False)
    intake.submit(orders.values())

    async def ended() -> bool:
        return all_ended(saga, orders)

    await until(ended, 30, "the younger one to process orders")
    assert younger.running()
    assert_right(saga, orders)


@pytest.fixture
def roomy_worker(deployed: World, frail_prefect: PrefectServer, tmp_path: Path) -> Iterator[Worker]:
    """A worker with room for many consumers; two connections to the gateway for each."""
    forget_runs(frail_prefect, "process-order")  # of other tests, whose orders are in other databases
    given = {
        **frail_prefect.client_environment,
        "MOST_CONSUMERS": "3",
        "PAYMENT_CONCURRENCY": "2",
        "WORKER_LIMIT": "12",
    }
    worker = Worker(
        home=HOME,
        logs=tmp_path / "logs",
        pids=frail_prefect.folder / "run",
        environment=given,
        name=f"roomy-{tmp_path.name}",
    )
    try:
        worker.start(frail_prefect.api_url)
        yield worker
    finally:
        worker.stop(grace=10)


@pytest.mark.slow
async def test_consumers_follow_the_load(deployed: World, roomy_worker: Worker, unique: str) -> None:
    """The gateway is slow, and orders wait: more consumers start, up to the limit. When there is nothing to
    do, one stays."""
    deployed.misbehave(latency_ms=900)
    orders = mixed(unique, 300, flaky=False)
    seen: list[int] = []
    try:
        submit_orders(orders.values())
        assert await asyncio.to_thread(wake_pending_lane)

        async def three() -> bool:
            seen.append(consuming(deployed))
            return seen[-1] == 3

        await until(three, 90, "three consumers to work")
        assert not all_ended(deployed, orders)
    finally:
        deployed.misbehave(latency_ms=0)

    async def ended() -> bool:
        seen.append(consuming(deployed))
        return all_ended(deployed, orders)

    await until(ended, 120, "all orders to end")

    async def one() -> bool:
        return consuming(deployed) == len(runs_of(roomy_worker)) == 1

    await until(one, 60, "all but one to end")
    assert max(seen) == 3
    assert_right(deployed, orders)
