"""What people do to runs in the Prefect UI while an order is paid:
none of it but cancelling undoes, loses or doubles anything."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from deployments.local.prefect_server import PrefectServer
from deployments.local.programs import Worker
from deployments.trigger import submit_orders
from tests.faults.runs import run, set_state, start
from tests.faults.test_kill_bar import prompt_worker, runs_of
from tests.faults.witness import PRICE, all_ended, assert_right, order_of
from tests.integration.world import World
from tests.waiting import until

__all__ = ["prompt_worker"]

Act = Callable[[PrefectServer, str], None]


def suspend(server: PrefectServer, run_id: str) -> None:
    """As the UI's button does."""
    set_state(
        server,
        run_id,
        "PAUSED",
        "Suspended",
        state_details={"pause_timeout": "2100-01-01T00:00:00Z", "pause_reschedule": True},
    )


def delete(server: PrefectServer, run_id: str) -> None:
    httpx.delete(f"{server.api_url}/flow_runs/{run_id}", auth=server.auth, timeout=20).raise_for_status()


def resume(server: PrefectServer, run_id: str) -> None:
    answer = (
        httpx.post(f"{server.api_url}/flow_runs/{run_id}/resume", auth=server.auth, json={}, timeout=20)
        .raise_for_status()
        .json()
    )
    assert answer["status"] == "ACCEPT", answer


def to(kind: str, name: str | None = None) -> Act:
    return lambda server, run_id: set_state(server, run_id, kind, name, message="by hand")


ACTS: dict[str, Act] = {
    "suspended": suspend,
    "paused": to("PAUSED", "Paused"),
    "completed": to("COMPLETED"),
    "failed": to("FAILED"),
    "crashed": to("CRASHED"),
    "scheduled": to("SCHEDULED"),
    "deleted": delete,
}


@pytest.mark.slow
async def test_only_cancelling_cancels(
    deployed: World, frail_prefect: PrefectServer, prompt_worker: Worker, unique: str
) -> None:
    """Each act while the gateway has charged and its answer is still out."""
    orders = {
        act: order_of("good", f"{unique}-{act}", payment_info={"method": "credit_card", "card_last4": "0341"})
        for act in ACTS
    }
    ids = [order["id"] for order in orders.values()]
    run_ids: dict[str, str] = {}
    for act, order in orders.items():
        run_ids[act] = start(frail_prefect, "process-order", {"order": order})

        async def charged(order_id: str = order["id"]) -> bool:
            return deployed.charges(order_id) == 1

        await until(charged, 60, "the charge")
        assert not all_ended(deployed, [order["id"]])
        ACTS[act](frail_prefect, run_ids[act])

    async def ended() -> bool:
        return all_ended(deployed, ids)

    await until(ended, 60, "the orders to end")
    assert_right(deployed, {order["id"]: order for order in orders.values()})

    # A run that has ended is started again, as the UI's button does it; and the suspended one is resumed.
    async def suspended() -> bool:
        return run(frail_prefect, run_ids["suspended"])["state"]["name"] == "Suspended" and not runs_of(
            prompt_worker, run_ids["suspended"]
        )

    await until(suspended, 60, "the suspended run's process to end")
    resume(frail_prefect, run_ids["suspended"])
    set_state(frail_prefect, run_ids["failed"], "SCHEDULED", "AwaitingRetry")

    async def over() -> bool:
        again = [run(frail_prefect, run_ids[act]) for act in ("suspended", "failed")]
        return all(each["state"]["type"] == "COMPLETED" for each in again)

    await until(over, 60, "the resumed and the retried run to end")
    assert_right(deployed, {order["id"]: order for order in orders.values()})


@pytest.mark.slow
async def test_a_suspended_run_releases_its_order_and_resumes_it(
    deployed: World, frail_prefect: PrefectServer, worker: Worker, unique: str
) -> None:
    """Suspended while it pays, with a lease of 300 s:
    the order is anybody's at once. Charged once, refunded nothing, completed."""
    order = order_of("good", unique, payment_info={"method": "credit_card", "card_last4": "0341"})
    run_id = start(frail_prefect, "process-order", {"order": order})

    async def charged() -> bool:
        return deployed.charges(order["id"]) == 1

    await until(charged, 60, "the charge")
    suspend(frail_prefect, run_id)

    async def ended() -> bool:
        return all_ended(deployed)

    await until(ended, 60, "the order to end")
    resume(frail_prefect, run_id)

    async def completed() -> bool:
        return str(run(frail_prefect, run_id)["state"]["type"]) == "COMPLETED"

    await until(completed, 60, "the resumed run to end")
    assert deployed.money(order["id"]) == (PRICE, 0)
    assert_right(deployed, {order["id"]: order})
    assert deployed.order(order["id"]).takeovers == 0, "it was handed back: nobody had to wait for the lease"


@pytest.mark.slow
async def test_a_suspended_consumer_hands_its_orders_back(
    deployed: World, frail_prefect: PrefectServer, worker: Worker, unique: str
) -> None:
    """The lease is 300 s, and would be renewed as long as its process lives:
    others take the orders up all the same."""
    slow = {"payment_info": {"method": "credit_card", "card_last4": "0341"}}
    orders = {order["id"]: order for order in (order_of("good", f"{unique}-{i}", **slow) for i in range(6))}
    submit_orders(orders.values())
    first = start(frail_prefect, "process-pending-orders")

    async def paying() -> bool:
        return all(deployed.charges(order_id) == 1 for order_id in orders)

    await until(paying, 60, "the charges")
    suspend(frail_prefect, first)

    async def ended() -> bool:
        return all_ended(deployed)

    await until(ended, 90, "the orders to end")

    async def stopped() -> bool:
        return not runs_of(worker, first)

    await until(stopped, 60, "the suspended consumer's process to end")
    assert_right(deployed, orders)
    assert {deployed.order(order_id).takeovers for order_id in orders} == {0}
