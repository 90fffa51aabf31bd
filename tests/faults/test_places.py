"""Many runs of `process-order` at once: only so many run,
the others wait, and nothing else is kept from starting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol
from uuid import uuid4

import anyio
import psutil
import pytest

from deployments.capacity import LANES, LOWEST_LIMIT, OWN_RUNS, QUEUES, REPORTS, REVIEW, places, worker_limit
from deployments.environment import environment
from deployments.local.prefect_server import PrefectServer
from deployments.local.programs import Worker
from deployments.trigger import submit_orders
from deployments.worker import OrdersWorker
from saga.limit import Turns
from shop.settings import settings
from tests.conftest import HOME
from tests.faults.runs import run, start, states
from tests.faults.test_kill_bar import runs_of
from tests.faults.witness import all_ended, assert_right, mixed, order_of
from tests.integration.world import World
from tests.waiting import until


class Limited(Protocol):
    def __call__(self, limit: int, order_runs: int = ...) -> Worker: ...


@pytest.fixture
def limited(deployed: World, frail_prefect: PrefectServer, tmp_path: Path) -> Iterator[Limited]:
    """Starts a worker with this limit."""
    workers: list[Worker] = []

    def with_limit(limit: int, order_runs: int = 100) -> Worker:
        name = f"limited-{tmp_path.name}-{len(workers)}"
        given = {
            **frail_prefect.client_environment,
            "WORKER_LIMIT": str(limit),
            "MOST_ORDER_RUNS": str(order_runs),
            "PAYMENT_TIMEOUT_SECONDS": "50",
        }
        folders = {"logs": tmp_path / name, "pids": tmp_path / name}
        folders["pids"].mkdir()
        workers.append(Worker(home=HOME, environment=given, name=name, **folders))
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
    runs of queues of higher priority always have a place."""
    limit = LOWEST_LIMIT
    worker: Any = OrdersWorker("orders", limit=limit)
    worker._limiter = anyio.CapacityLimiter(limit)
    worker._order_runs = SimpleNamespace(turns=Turns(100))

    def found(queue: str, number: int = 9) -> list[Any]:
        return [
            SimpleNamespace(flow_run=SimpleNamespace(id=uuid4(), work_queue_name=queue))
            for _ in range(number)
        ]

    own, reports, review, lanes = (found(queue) for queue in (OWN_RUNS, REPORTS, REVIEW, LANES))
    assert [places(queue, limit) for queue in QUEUES] == [6, 4, 3, 2]
    chosen = worker._with_free_places([*own, *reports, *review, *lanes])
    assert chosen == [*own[:2], reports[0], review[0], *lanes[:2]]
    for each in chosen:
        worker._limiter.acquire_on_behalf_of_nowait(each.flow_run.id)
    assert worker._with_free_places([*own[2:], *lanes[2:]]) == []
    worker._limiter.release_on_behalf_of(own[0].flow_run.id)
    assert worker._with_free_places([*own[2:], *reports[1:]]) == own[2:3]
    worker._limiter.acquire_on_behalf_of_nowait(own[2].flow_run.id)
    worker._order_runs.turns.resize(1)
    worker._limiter.release_on_behalf_of(own[1].flow_run.id)
    assert worker._with_free_places(own[3:]) == [], "other workers have what this one may not have any more"


@pytest.mark.slow
async def test_more_orders_than_a_worker_has_places(
    deployed: World, frail_prefect: PrefectServer, limited: Limited, unique: str
) -> None:
    """Their runs fill what they may fill, and the gateway keeps them there:
    a consumer starts all the same, and its order goes through."""
    worker, most_own = limited(LOWEST_LIMIT), places(OWN_RUNS, LOWEST_LIMIT)
    orders = {
        order["id"]: order for order in (order_of("good", f"{unique}-{i}") for i in range(3 * most_own))
    }
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
            return own_runs() == most_own == paying

        await until(full, 60, "the places to be full of orders that wait for the gateway")

        async def others_wait() -> bool:
            states = {run(frail_prefect, run_id)["state"]["type"] for run_id in run_ids}
            return states == {"RUNNING", "SCHEDULED"}

        await until(others_wait, 15, "the others to be refused a place")
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
    assert max(most) == most_own
    assert_right(deployed, {**orders, other["id"]: other})


@pytest.mark.slow
async def test_all_workers_share_the_limit_of_order_runs(
    deployed: World, frail_prefect: PrefectServer, limited: Limited, unique: str
) -> None:
    """Sixty runs at once, two workers with room for all of them: no more processes than the limit, and orders
    of the batch lane meanwhile. One worker is killed with its runs: the other has the whole limit as soon as
    the lease is over."""
    limit = 4
    workers = [limited(70, limit), limited(70, limit)]
    orders = {order["id"]: order for order in (order_of("good", f"{unique}-{i}") for i in range(60))}
    run_ids = [start(frail_prefect, "process-order", {"order": order}) for order in orders.values()]
    at_once: list[int] = []
    names: set[str] = set()

    def own_runs() -> list[int]:
        now = [
            sum(process.environ().get("PREFECT__FLOW_RUN_ID") in run_ids for process in runs_of(worker))
            for worker in workers
            if worker.running()
        ]
        at_once.append(sum(now))
        return now

    with slow(deployed, 20_000):

        async def shared() -> bool:
            return own_runs() == [limit // 2, limit // 2]

        await until(shared, 60, "both workers to have their shares")
        lane = mixed(f"{unique}-lane", 40, flaky=False)
        submit_orders(lane.values())

        async def claimed() -> bool:
            own_runs()
            names.update(state["name"] for state in states(frail_prefect, run_ids))
            return deployed.sql("SELECT 1 FROM lease WHERE shares ? 'consumers'") != []

        await until(claimed, 30, "a consumer to run meanwhile")
        dead = workers.pop()
        for process in (*runs_of(dead), psutil.Process(dead.pid)):
            process.kill()

        async def whole() -> bool:
            return own_runs() == [limit]

        await until(whole, settings().lease_seconds + 5, "the other worker to have the whole limit")

    async def ended() -> bool:
        own_runs()
        names.update(state["name"] for state in states(frail_prefect, run_ids))
        return all_ended(deployed, [*orders, *lane])

    await until(ended, 180, "all orders to end")
    assert max(at_once) == limit
    assert names & {"Late", "Scheduled"}, "those that wait are shown as such"
    assert_right(deployed, {**orders, **lane})


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
