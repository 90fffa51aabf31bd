"""A process is paused (SIGSTOP) until its lease is gone and another took over, then wakes up (SIGCONT).

It can write nothing, for the fence has moved on, and sends nothing outside that the same payment's id does not cover; at a gateway that
remembers idempotency keys, and at one that forgets them.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Any

import pytest

from shop import intake
from tests.faults.witness import Orders, all_ended, assert_mails, assert_right, order_of, stock_up
from tests.integration.world import World
from tests.nursery.nursery import Nursery, Process

QUICK = {"LEASE_SECONDS": "1", "POLL_SECONDS": "0.2", "PAYMENT_TIMEOUT_SECONDS": "25"}
CLIENT = "shop.payments.sandbox_client:SandboxGateway"


@dataclass(frozen=True)
class Pause:
    """Where a process stops, and with which kind of order it gets there."""

    name: str
    place: str | None
    kind: str = "good"
    locks: bool = False
    """Whether it is in the middle of a transaction, which the server has to end before anybody else can have the order."""


WAITING = Pause("while it waits for the gateway, which has charged", None)
PAUSES = [
    Pause("between the claim and the first write", "tasks.step:run_in_database:before"),
    Pause("before the payment is created", f"{CLIENT}.create:before"),
    Pause("before its id is journalled", f"{CLIENT}.create:after"),
    Pause("before the charge", f"{CLIENT}.confirm:before"),
    WAITING,
    Pause("before the charge is journalled", f"{CLIENT}.confirm:after"),
    Pause("before the outcome", "flows.process_order:finish:before"),
    Pause("before the refund", f"{CLIENT}.refund:before", "unshippable"),
    Pause("before the refund is journalled", f"{CLIENT}.refund:after", "unshippable"),
    Pause("in the transaction that reserves", "shop.inventory:reserve:after", locks=True),
    Pause("before the pivot's commit", "tasks.fulfill_order:fulfil:after", locks=True),
    Pause("in the transaction that releases", "shop.inventory:release:after", "declined", locks=True),
]


@pytest.mark.slow
@pytest.mark.parametrize("forget_keys", [False, True], ids=["the gateway remembers keys", "it forgets them"])
async def test_who_wakes_up_writes_nothing(saga: World, nursery: Nursery, unique: str, forget_keys: bool) -> None:
    """Every second process is a run of its own, the others are drains; the other way round at the other gateway."""
    stock_up(saga)
    saga.misbehave(forget_keys=forget_keys)
    try:
        orders, paused = pause_everywhere(saga, nursery, unique, own_runs=forget_keys)

        rescue = nursery.drain(env={**QUICK, "LEASE_SECONDS": "30"})
        rescue.wait_until(lambda: all_ended(saga), 60, "another to take them all over")
        assert {row.takeovers for row in saga.sql("SELECT takeovers FROM customer_order")} == {1}
        assert_right(saga, orders)
        before = all_that_is_written(saga)

        for process in paused:
            assert process.stopped()
            process.signal(signal.SIGCONT)
        for process in paused:
            process.gone(60)
        rescue.wait(60)
    finally:
        saga.misbehave(forget_keys=False)
    assert all_that_is_written(saga) == before, "they wrote nothing"
    assert_right(saga, orders)
    assert_mails(saga, orders)


def pause_everywhere(saga: World, nursery: Nursery, unique: str, *, own_runs: bool) -> tuple[Orders, list[Process]]:
    """A process for each pause, stopped there with an order of its own."""
    orders: Orders = {}
    started: list[tuple[Pause, str, Process]] = []
    # Drains first, one after the other: each takes what is waiting. Runs of their own take their own orders, all at once.
    for i, pause in sorted(enumerate(PAUSES), key=lambda each: in_a_run_of_its_own(*each, own_runs)):
        order = order_of(pause.kind, f"{unique}-{i}", **({"card": "0341"} if pause is WAITING else {}))
        orders[order["id"]] = order
        lane: dict[str, Any] = {"stop_at": pause.place, "env": {**QUICK, "LEASE_SECONDS": "2" if pause.locks else "60"}}
        if in_a_run_of_its_own(i, pause, own_runs):
            started.append((pause, order["id"], nursery.order(order, **lane)))
        else:
            intake.submit([order])
            started.append((pause, order["id"], nursery.drain(**lane)))
            let_it_come_to_its_pause(saga, *started[-1])
    for each in started:
        let_it_come_to_its_pause(saga, *each)
    # Their leases run out: now, and not while the last of them are still on their way to their pauses.
    saga.sql("UPDATE lease SET until = now() - interval '1 second'")
    return orders, [process for _, _, process in started]


def in_a_run_of_its_own(number: int, pause: Pause, own_runs: bool) -> bool:
    return pause.locks or (number % 2 == 0) is own_runs


def let_it_come_to_its_pause(saga: World, pause: Pause, order_id: str, process: Process) -> None:
    if pause is WAITING and not process.stopped():
        process.wait_until(lambda: saga.charges(order_id) == 1, 30, "the charge")
        process.signal(signal.SIGSTOP)
    process.wait_until(process.stopped, 30, f"the pause {pause.name}")


def all_that_is_written(saga: World) -> dict[str, list[str]]:
    """Every row about the orders, save for what is about sending mails."""
    tables = ("customer_order", "order_step", "reservation", "shipment", "product", "customer_interaction")
    return {table: sorted(str(row[0]) for row in saga.sql(f"SELECT to_jsonb(t) FROM {table} t")) for table in tables}
