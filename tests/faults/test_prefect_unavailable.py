"""The Prefect server is unavailable, or dies in the middle,
or returns: submitted orders are processed, and running ones reach their outcome."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import psutil
import pytest

from deployments.local.prefect_server import PrefectServer
from deployments.local.programs import Worker
from deployments.trigger import run_order, start_own_run, submit_orders, wake_pending_lane
from shop.orders import report
from shop.orders.intake_content import take_in
from shop.orders.outcomes import Outcome
from tests.faults.gates import gates
from tests.faults.test_stopped import state
from tests.faults.witness import all_ended, assert_mails, assert_right, mixed, order_of
from tests.integration.world import World
from tests.waiting import until
from tests.worker_forkserver.forkserver import Forkserver

ENV = {"PAYMENT_TIMEOUT_SECONDS": "5", "POLL_SECONDS": "0.2"}


def kill(server: PrefectServer) -> None:
    """The server, and whatever it started."""
    assert server.pid is not None
    leader = psutil.Process(server.pid)
    for process in [*leader.children(recursive=True), leader]:
        os.kill(process.pid, signal.SIGKILL)


async def all_end(world: World, seconds: float, what: str) -> None:
    async def ended() -> bool:
        return all_ended(world)

    await until(ended, seconds, what)


@pytest.mark.slow
async def test_what_is_submitted_without_a_server_is_processed_when_it_is_back(
    deployed: World, frail_prefect: PrefectServer, worker: Worker, unique: str
) -> None:
    """Submitting takes milliseconds all the same;
    the worker waits for its server, and does not have to be restarted."""
    kill(frail_prefect)
    orders = mixed(unique, 20)
    took = []
    for order in orders.values():  # one of them is not disturbed by whatever else this machine does
        began = time.monotonic()
        assert [receipt.status for receipt in submit_orders([order])] == ["accepted"]
        took.append(time.monotonic() - began)
    assert min(took) < 0.5, f"submitting an order took {min(took):.1f} s at least"
    assert max(took) < 10, "a server that is gone is waited for"
    assert not wake_pending_lane(), "nobody to wake"
    assert set(report.read(list(orders))) == set(orders)

    await asyncio.to_thread(frail_prefect.start)
    last = order_of("good", f"{unique}-last")
    assert (await asyncio.to_thread(run_order, last, timeout=120)).outcome is Outcome.COMPLETED
    await all_end(deployed, 60, "the orders that were submitted before")
    assert worker.running()
    orders[last["id"]] = last
    assert_right(deployed, orders)


@pytest.mark.slow
async def test_the_server_dies_while_a_worker_s_run_is_under_way(
    deployed: World, frail_prefect: PrefectServer, worker: Worker, unique: str
) -> None:
    """In the middle of shipping. The run's process takes its order to its outcome without the server,
    and says so when it is back."""
    order = order_of("good", unique)
    with gates(deployed.database_url) as gate:
        gate.shut("shipment", order["id"])
        run = await asyncio.to_thread(start_own_run, take_in(order))

        async def shipping() -> bool:
            return bool(gate.waiting("shipment", order["id"]))

        await until(shipping, 60, "the run to come to the pivot")
        kill(frail_prefect)
        assert deployed.charges(order["id"]) == 1
        assert not all_ended(deployed), "in the middle"
        gate.open("shipment", order["id"])
        await all_end(deployed, 30, "the order to end while the server is away")
    assert not frail_prefect.running()
    assert_right(deployed, {order["id"]: order})

    await asyncio.to_thread(frail_prefect.start)

    async def shown() -> bool:
        return state(frail_prefect, str(run.id)) == "COMPLETED"

    await until(shown, 60, "the run to be shown as completed")
    assert worker.running()
    assert_right(deployed, {order["id"]: order})
    assert_mails(deployed, {order["id"]: order})
    assert deployed.sql("SELECT fence, takeovers FROM customer_order") == [(1, 0)], (
        "it was the run's own from beginning to end"
    )


@pytest.mark.parametrize("how", ["killed", pytest.param("hanging", marks=pytest.mark.slow)])
async def test_the_server_becomes_unavailable_in_the_middle(
    deployed: World, frail_prefect: PrefectServer, forkserver: Forkserver, unique: str, how: str
) -> None:
    """Consumers and runs of their own that are under way take their orders to their ends without it,
    and the next ones with it."""
    orders = mixed(unique, 40)
    *waiting, a, b = orders.values()
    submit_orders(waiting)
    deployed.misbehave(latency_ms=300)
    consumers = [forkserver.consumer(20, batch_size=8, env=ENV) for _ in range(2)]
    own_runs = [forkserver.order(order, env=ENV) for order in (a, b)]

    async def instance() -> bool:
        taken = {row.id for row in deployed.sql("SELECT id FROM customer_order WHERE fence > 0")}
        return {a["id"], b["id"]} <= taken and len(taken) > 10 and not all_ended(deployed)

    try:
        await until(instance, 60, "everybody to be at work")
        if how == "killed":
            kill(frail_prefect)
        else:
            frozen = psutil.Process(frail_prefect.pid)
            frozen.suspend()
        assert not all_ended(deployed), "in the middle"
        await all_end(deployed, 60, "all orders to end while the server is away")
    finally:
        deployed.misbehave(latency_ms=0)
        if how == "hanging":
            frozen.resume()
    assert_right(deployed, orders)
    if how == "killed":
        await asyncio.to_thread(frail_prefect.start)
    for process in [*consumers, *own_runs]:
        process.gone(120)

    more = mixed(f"{unique}-later", 10)
    submit_orders(more.values())
    forkserver.consumer(env=ENV).wait(90)
    assert_right(deployed, orders | more)
    assert_mails(deployed, orders | more)
