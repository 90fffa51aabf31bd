"""Many runs of `process-order` at once: only so many run,
the others wait, and nothing else is kept from starting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import anyio
import pytest
import yaml

from deployments.capacity import LOWEST_LIMIT, RESERVED, own_run_places, worker_limit
from deployments.local.environment import environment
from deployments.local.prefect_server import PrefectServer
from deployments.local.worker import Worker
from deployments.trigger import submit_orders
from deployments.worker import OrdersWorker
from shop.settings import settings
from tests.conftest import HOME
from tests.faults.runs import run, start, states
from tests.faults.test_kill_bar import runs_of
from tests.faults.witness import all_ended, assert_right, order_of
from tests.integration.world import World
from tests.waiting import until


def deployment_limit() -> int:
    described = yaml.safe_load((HOME / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    (limit,) = (each["concurrency_limit"]["limit"] for each in described if each["name"] == "process-order")
    return int(limit)


@pytest.fixture
def limited(
    deployed: World, frail_prefect: PrefectServer, tmp_path: Path
) -> Iterator[Callable[[int], Worker]]:
    """Starts a worker with this limit."""
    workers: list[Worker] = []

    def with_limit(limit: int) -> Worker:
        given = {
            **frail_prefect.client_environment,
            "WORKER_LIMIT": str(limit),
            "PAYMENT_TIMEOUT_SECONDS": "50",
        }
        places = {"logs": tmp_path / "logs", "pids": frail_prefect.folder / "run"}
        workers.append(Worker(home=HOME, environment=given, name=f"limited-{tmp_path.name}", **places))
        workers[-1].start(frail_prefect.api_url)
        return workers[-1]

    yield with_limit
    for worker in workers:
        worker.stop(grace=10)


@contextmanager
def slow(world: World, milliseconds: int) -> Iterator[None]:
    world.misbehave(latency_ms=milliseconds)
    try:
        yield
    finally:
        world.misbehave(latency_ms=0)


async def test_places_are_counted_within_one_look_too() -> None:
    """Many runs found at once; those that end make room for others;
    every other kind of run always has a place."""
    worker: Any = OrdersWorker("orders", limit=RESERVED + 2)
    worker._limiter = anyio.CapacityLimiter(RESERVED + 2)

    def found(queue: str) -> Any:
        return SimpleNamespace(flow_run=SimpleNamespace(id=uuid4(), work_queue_name=queue))

    own, others = [found("own-runs") for _ in range(5)], [found("default") for _ in range(5)]
    assert worker._with_free_places([*own, *others]) == [*own[:2], *others]
    for each in own[:2]:
        worker._limiter.acquire_on_behalf_of_nowait(each.flow_run.id)
    assert worker._with_free_places([*own[2:], *others]) == others
    worker._limiter.release_on_behalf_of(own[0].flow_run.id)
    assert worker._with_free_places(own[2:]) == own[2:3]


@pytest.mark.slow
async def test_more_orders_than_a_worker_has_places(
    deployed: World, frail_prefect: PrefectServer, limited: Callable[[int], Worker], unique: str
) -> None:
    """Their runs fill what they may fill, and the gateway keeps them there:
    a consumer starts all the same, and its order goes through."""
    worker, places = limited(LOWEST_LIMIT), own_run_places(LOWEST_LIMIT)
    orders = {order["id"]: order for order in (order_of("good", f"{unique}-{i}") for i in range(3 * places))}
    run_ids = [start(frail_prefect, "process-order", {"order": order}) for order in orders.values()]
    most: list[int] = []

    def own_runs() -> int:
        now = sum(len(runs_of(worker, run_id)) > 0 for run_id in run_ids)
        most.append(now)
        return now

    with slow(deployed, 20_000):

        async def full() -> bool:
            paying = deployed.sql(
                "SELECT count(*) FROM order_step WHERE step = 'process_payment' AND status = 'begun'"
            )[0][0]
            return own_runs() == places == paying

        await until(full, 60, "the places to be full of orders that wait for the gateway")
        assert {run(frail_prefect, run_id)["state"]["type"] for run_id in run_ids} == {
            "RUNNING",
            "SCHEDULED",
        }, "the others wait"
        other = order_of("short", unique)
        submit_orders([other])  # no schedule runs here: the worker itself starts the consumer

        async def consumed() -> bool:
            own_runs()
            return all_ended(deployed, [other["id"]])

        await until(consumed, 15, "a consumer to start although many runs wait")

    async def ended() -> bool:
        own_runs()
        return all_ended(deployed, [*orders, other["id"]])

    await until(ended, 120, "all orders to end")
    assert max(most) == places
    assert_right(deployed, {**orders, other["id"]: other})


@pytest.mark.slow
async def test_the_deployment_s_limit_holds_and_all_orders_complete(
    deployed: World, frail_prefect: PrefectServer, limited: Callable[[int], Worker], unique: str
) -> None:
    """A worker with places for all: no more run at once than the deployment allows,
    and the others come after them."""
    limit = deployment_limit()
    number = limit + 4
    worker = limited(number + RESERVED)
    orders = {order["id"]: order for order in (order_of("good", f"{unique}-{i}") for i in range(number))}
    run_ids = [start(frail_prefect, "process-order", {"order": order}) for order in orders.values()]
    seen: set[str] = set()
    at_once: list[int] = []
    connections: list[int] = []

    async def ended() -> bool:
        now = states(frail_prefect, run_ids)
        seen.update(state["name"] for state in now)
        at_once.append(sum(state["type"] in {"PENDING", "RUNNING"} for state in now))
        connections.append(
            deployed.sql("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")[0][0]
        )
        return all_ended(deployed, orders) and {state["type"] for state in now} == {"COMPLETED"}

    with slow(deployed, 1_000):
        await until(ended, 180, "all orders to end")
    assert limit / 2 < max(at_once) <= limit
    assert "AwaitingConcurrencySlot" in seen, "those that wait say what for"
    assert max(connections) <= 6 * limit
    assert worker.running()
    assert_right(deployed, orders)


def test_a_worker_s_own_limit(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with environment({"WORKER_LIMIT": "7"}):
        settings.cache_clear()
        assert worker_limit() == 7
    settings.cache_clear()
    by_this_machine = worker_limit()
    assert by_this_machine >= LOWEST_LIMIT
    monkeypatch.setattr("deployments.capacity._memory", lambda: 512 * 1024**2)
    assert worker_limit() == LOWEST_LIMIT, "a small machine"
    monkeypatch.setattr("deployments.capacity._memory", lambda: 10**12)
    assert LOWEST_LIMIT < worker_limit() < 70, "PostgreSQL's 200 connections"
    with environment({"DATABASE_URL": "postgresql://nobody@127.0.0.1:9/nothing"}):
        settings.cache_clear()
        assert worker_limit() > 70, "a database that does not answer limits nothing"
    settings.cache_clear()
    assert [own_run_places(limit) for limit in (1, RESERVED, LOWEST_LIMIT, 20)] == [
        1,
        1,
        LOWEST_LIMIT - RESERVED,
        20 - RESERVED,
    ]
