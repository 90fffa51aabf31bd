"""A run is cancelled, or its process is terminated: effective at once, without waiting for a schedule."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import httpx
import pytest

from deployments.local.prefect_server import PrefectServer
from deployments.local.programs import Worker
from deployments.trigger import start_own_run
from saga.prefect.batch import GRACE_SECONDS
from saga.wakeup import is_consumer_running
from shop.orders import intake, report
from shop.orders.intake_content import take_in
from shop.orders.outcomes import Outcome
from shop.orders.store import ORDERS
from tests.faults.gates import gates
from tests.faults.witness import PRODUCT, all_ended, assert_right, mixed, order_of, stock_up
from tests.integration.world import World
from tests.waiting import until
from tests.worker_forkserver.forkserver import Forkserver


def cancel(server: PrefectServer, run_id: str) -> None:
    """As the UI's button does."""
    body = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    httpx.post(
        f"{server.api_url}/flow_runs/{run_id}/set_state", auth=server.auth, json=body, timeout=20
    ).raise_for_status()


def state(server: PrefectServer, run_id: str) -> str:
    return str(
        httpx.get(f"{server.api_url}/flow_runs/{run_id}", auth=server.auth, timeout=20)
        .raise_for_status()
        .json()["state"]["type"]
    )


@pytest.mark.slow
async def test_cancelled_at_any_step(
    deployed: World, frail_prefect: PrefectServer, worker: Worker, unique: str
) -> None:
    """Before and during the pivot, the order is compensated;
    after it, the order continues. The run itself does it: there is no other worker."""
    # Whoever waits at a gate holds its product's row, so each has a product of its own.
    products = {"reservation": "PROD-001", "payment": "PROD-002", "shipment": "LAPTOP", "outbox": PRODUCT}
    orders = {
        place: order_of("good", f"{unique}-{place}", product=product) for place, product in products.items()
    }
    orders["payment"]["payment_info"]["card_last4"] = "0341"  # charged, and the answer does not come
    with gates(deployed.database_url) as gate:
        gated = [place for place in orders if place != "payment"]
        for place in gated:
            gate.shut(place, orders[place]["id"])
        runs = {
            place: str((await asyncio.to_thread(start_own_run, take_in(orders[place]))).id) for place in gated
        }

        async def at_gates() -> bool:
            return all(gate.waiting(place, orders[place]["id"]) for place in gated)

        async def charged() -> bool:
            return deployed.charges(orders["payment"]["id"]) == 1

        await until(at_gates, 90, "each run to come to its gate")
        # last: its answer is held back for a while only
        runs["payment"] = str((await asyncio.to_thread(start_own_run, take_in(orders["payment"]))).id)
        await until(charged, 30, "the charge")
        first = gate.waiting("outbox", orders["outbox"]["id"])
        asked = time.monotonic()
        for run_id in runs.values():
            cancel(frail_prefect, run_id)

        async def undone() -> bool:
            return all_ended(
                deployed, [orders[place]["id"] for place in ("reservation", "payment", "shipment")]
            )

        await until(undone, 30, "the orders to be undone, although the gates are shut")
        assert time.monotonic() - asked < 30, "nothing that is still under way is waited for"

        async def resumed() -> bool:
            return bool(gate.waiting("outbox", orders["outbox"]["id"]) - first)

        await until(resumed, 30, "the shipped order to go on")
        gate.open("outbox", orders["outbox"]["id"])

        async def ended() -> bool:
            return all_ended(deployed)

        await until(ended, 20, "the shipped order to end")

    async def shown() -> bool:
        return {state(frail_prefect, run_id) for run_id in runs.values()} == {"CANCELLED"}

    await until(shown, 60, "the runs to be shown as cancelled")
    expected = {
        order["id"]: Outcome.COMPLETED if place == "outbox" else Outcome.COMPENSATED
        for place, order in orders.items()
    }
    assert_right(deployed, {order["id"]: order for order in orders.values()}, expected)
    ends = report.read(list(expected))
    assert {end.takeovers for end in ends.values()} == {0}
    assert all("cancelled" in end.reasons[0] for end in ends.values() if end.outcome is Outcome.COMPENSATED)
    assert deployed.money(orders["payment"]["id"])[1] > 0, "it was charged, and got it back"


async def test_a_worker_is_stopped(
    deployed: World, frail_prefect: PrefectServer, worker: Worker, forkserver: Forkserver, unique: str
) -> None:
    """SIGTERM to a process worker with a run in the middle of a payment:
    the order is not compensated; another worker continues it."""
    order = order_of("good", unique, payment_info={"method": "credit_card", "card_last4": "0341"})
    run_id = str((await asyncio.to_thread(start_own_run, take_in(order))).id)

    async def charged() -> bool:
        return deployed.charges(order["id"]) == 1

    await until(charged, 60, "the charge")
    consumer = forkserver.consumer(300, env={"POLL_SECONDS": "600", "LEASE_SECONDS": "300"})
    await until(lambda: is_consuming(deployed), 20, "the consumer")
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGTERM)

    async def ended() -> bool:
        return all_ended(deployed)

    await until(ended, 20, "the order to end elsewhere")
    assert consumer.running()
    assert_right(deployed, {order["id"]: order})

    async def shown() -> bool:
        return state(frail_prefect, run_id) == "CRASHED"

    await until(shown, 30, "the run to be shown as crashed")


async def is_consuming(world: World) -> bool:
    return is_consumer_running(ORDERS)


async def test_a_process_that_is_stopped_releases_its_orders_at_once(
    saga: World, forkserver: Forkserver, unique: str
) -> None:
    """SIGTERM in the middle of payments that take 10 s. The leases would last for 5 minutes."""
    stock_up(saga)
    orders = mixed(unique, 40, flaky=False)
    slow: dict[str, Any] = {
        "env": {"LEASE_SECONDS": "300", "PAYMENT_TIMEOUT_SECONDS": "30", "POLL_SECONDS": "0.5"}
    }
    *waiting, own = orders.values()
    intake.submit(waiting)
    saga.misbehave(latency_ms=10_000)
    try:
        going = [forkserver.consumer(300, **slow), forkserver.order(own, **slow)]

        async def paying() -> bool:
            rows = saga.sql(
                "SELECT o.lease_id FROM customer_order o JOIN order_step s ON s.order_id = o.id "
                "WHERE s.step = 'process_payment'"
            )
            return len(rows) > len(orders) / 2 and own["id"] in {
                row.id for row in saga.sql("SELECT id FROM customer_order WHERE fence = 1")
            }

        await until(paying, 40, "the payments")
    finally:
        saga.misbehave(latency_ms=0)
    held = {row.id for row in saga.sql("SELECT id FROM customer_order WHERE outcome IS NULL")}
    others = forkserver.consumer(300, **slow)
    await until(lambda: holds(saga, others.pid), 20, "another worker")

    asked = time.monotonic()
    for process in going:
        process.signal(signal.SIGTERM)

    async def taken() -> bool:
        rows = saga.sql("SELECT id FROM customer_order WHERE outcome IS NULL AND fence < 2")
        return not rows

    await until(taken, 10, "the orders to be taken up elsewhere")
    took = time.monotonic() - asked
    for process in going:
        process.gone(20)

    async def ended() -> bool:
        return all_ended(saga, orders)

    await until(ended, 60, "all orders to end")
    assert_right(saga, orders)
    assert took < GRACE_SECONDS + 3, f"{len(held)} orders waited for {took:.1f} s"


async def test_sigterm_that_interrupts_a_background_task_ends_a_consumer(
    saga: World, forkserver: Forkserver
) -> None:
    """Prefect's handler raises in whichever task is running: here in the one that sends mail."""
    consumer = forkserver.consumer(
        300, stop_at="shop.notifications.outbox:is_due:before", stop_by=signal.SIGTERM
    )
    await asyncio.to_thread(consumer.gone, 20)
    assert consumer.code != 0
    assert not saga.sql("SELECT 1 FROM lease")


async def holds(world: World, pid: int) -> bool:
    return bool(world.sql("SELECT 1 FROM lease WHERE holder LIKE '%:' || CAST(:pid AS text)", pid=pid))
