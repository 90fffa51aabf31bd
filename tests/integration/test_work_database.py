"""One step for many orders in our own database: each ends by itself, and effect and journal are one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy.exc import OperationalError

from saga.database import Tx
from saga.database_action import run_in_database
from saga.errors import LeaseLost, StepTimeout, UnexpectedStepError
from saga.execution import StepExecution
from shop.inventory import embedded
from shop.inventory.errors import OutOfStock, Shortage
from shop.inventory.port import STEP
from shop.orders.order import OrderInstance
from shop.shipping.errors import CarrierUnavailable
from tests.integration.domain import Shop, an_order
from tests.integration.scripted import ACT, SHIP, Effects, Ends, failing_commits, gone, ids, some, statuses, step

pytest_plugins = ["tests.integration.domain_fixtures", "tests.integration.work_fixtures"]


async def test_a_batch_is_one_transaction_with_its_journal(stocked: Shop) -> None:
    orders = await some(stocked, *"ABC")
    act, work = Effects(stocked, B=OutOfStock([Shortage("B", 1, 0)])), StepExecution(ACT, orders)
    await run_in_database(work, act)
    assert act.asked == [["A", "B", "C"]]
    assert await act.made() == {"A": 1, "C": 1}
    assert (ids(work.done), ids(list(work.failed)), work.detached) == (["A", "C"], ["B"], [])
    assert work.summary() == {"done": 2, "failed": 1, "detached": 0}
    rows = {row.order_id: row for row in await stocked.rows("SELECT * FROM order_step")}
    assert {i: (row.status, row.undo_due, row.attempts) for i, row in rows.items()} == {
        "A": ("done", True, 1),
        "B": ("failed", False, 1),  # it did nothing, so there is nothing to undo
        "C": ("done", True, 1),
    }
    assert rows["A"].result == {"piece": "A"}
    assert rows["B"].error["shortages"] == [{"product_id": "B", "requested": 1, "available": 0}]
    assert orders[1].undo_plan() == ()


async def test_what_is_done_is_not_done_again(stocked: Shop) -> None:
    orders = await some(stocked, *"ABC")
    act = Effects(stocked)
    await run_in_database(StepExecution(ACT, orders[:2]), act)
    again = StepExecution(ACT, orders)
    await run_in_database(again, act)
    assert act.asked == [["A", "B"], ["C"]]
    assert ids(again.done) == ["A", "B", "C"]
    await run_in_database(again, act)
    assert len(act.asked) == 2
    assert await act.made() == {"A": 1, "B": 1, "C": 1}


async def test_an_exception_for_one_order_sends_all_alone_and_none_is_lost(stocked: Shop) -> None:
    orders = await some(stocked, *"ABC")
    act, batch = Effects(stocked, B=ZeroDivisionError("secret")), StepExecution(ACT, orders)
    await run_in_database(batch, act)
    assert (batch.done, batch.failed, ids(batch.detached)) == ([], {}, ["A", "B", "C"])
    assert await act.made() == {}, "one transaction: all of it was rolled back"
    assert await statuses(stocked) == {}
    for order in batch.detached:
        alone = StepExecution(ACT, [order])
        if order.id == "B":
            with pytest.raises(UnexpectedStepError) as broken:
                await run_in_database(alone, act)
            assert "ZeroDivisionError" in str(broken.value)
            assert "secret" not in str(broken.value.details())
        else:
            await run_in_database(alone, act)
            assert alone.summary() == {"piece": order.id}
    assert await act.made() == {"A": 1, "C": 1}
    assert await statuses(stocked) == {"A": "done", "B": "failed", "C": "done"}
    assert orders[1].undo_plan() == ()


async def test_an_order_that_the_action_forgot_does_not_take_the_others_with_it(stocked: Shop) -> None:
    orders = await some(stocked, *"ABC")

    async def forgetful(tx: Tx, batch: Sequence[OrderInstance]) -> Ends:
        return {order.id: {} for order in batch if order.id != "B"}

    batch = StepExecution(ACT, orders)
    await run_in_database(batch, forgetful)
    assert ids(batch.detached) == ["A", "B", "C"]
    await run_in_database(StepExecution(ACT, orders[:1]), forgetful)
    with pytest.raises(UnexpectedStepError):
        await run_in_database(StepExecution(ACT, orders[1:2]), forgetful)
    assert await statuses(stocked) == {"A": "done", "B": "failed"}


async def test_trouble_with_the_database_is_everybodys_and_is_tried_again_together(stocked: Shop) -> None:
    orders = await some(stocked, *"ABC")
    act, work = Effects(stocked, B=gone()), StepExecution(ACT, orders)
    with pytest.raises(OperationalError):
        await run_in_database(work, act)
    assert await act.made() == {}
    assert await statuses(stocked) == {}
    act.ends.clear()
    await run_in_database(work, act)
    assert await act.made() == {"A": 1, "B": 1, "C": 1}
    assert ids(work.done) == ["A", "B", "C"]


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("n", [1, 3])
async def test_an_unclear_commit_is_looked_up(stocked: Shop, monkeypatch: pytest.MonkeyPatch, arrives: bool, n: int) -> None:
    orders = await some(stocked, *"ABC"[:n])
    act, work = Effects(stocked), StepExecution(ACT, orders)
    failing_commits(monkeypatch, arrives=arrives)
    with pytest.raises(OperationalError):
        await run_in_database(work, act)
    await run_in_database(work, act)
    assert await act.made() == dict.fromkeys("ABC"[:n], 1)
    assert set((await statuses(stocked)).values()) == {"done"}
    assert all(order.result("act") == {"piece": order.id} for order in orders)
    assert len(act.asked) == (1 if arrives else 2)


@pytest.mark.parametrize("arrives", [True, False])
async def test_what_timed_out_at_its_commit_can_be_undone(shop: Shop, monkeypatch: pytest.MonkeyPatch, arrives: bool) -> None:
    """The last attempt's result is unclear, so it counts as done: undoing finds out."""
    await shop.add_stock(P=5)
    (order,) = await shop.instance(an_order("A", ("P", 2)))
    reserve = step(name=STEP)
    with monkeypatch.context() as patch:
        failing_commits(patch, arrives=arrives, error=TimeoutError())
        with pytest.raises(StepTimeout):
            await run_in_database(StepExecution(reserve, [order]), embedded.reserve)
    assert await shop.stock("P") == (5, 2 if arrives else 0)
    await run_in_database(StepExecution(reserve, [order], undo=True), embedded.release)
    assert await shop.stock("P") == (5, 0)
    assert order.undo_plan() == ()


async def test_a_batch_that_takes_too_long_did_nothing(stocked: Shop) -> None:
    orders = await some(stocked, "A", "B")
    never = asyncio.Event()

    async def slow(tx: Tx, batch: Sequence[OrderInstance]) -> Ends:
        await Effects(stocked)(tx, batch)
        await never.wait()
        return {}

    with pytest.raises(StepTimeout) as timeout:
        await run_in_database(StepExecution(step(time_limit=0.2), orders), slow)
    assert timeout.value.retryable
    assert await Effects(stocked).made() == {}
    assert await statuses(stocked) == {}


async def test_a_lost_order_is_left_out_and_the_others_go_on(stocked: Shop) -> None:
    orders = await some(stocked, *"ABC")
    await stocked.let_leases_run_out()
    await stocked.claim("B")
    act, work = Effects(stocked), StepExecution(ACT, orders)
    await run_in_database(work, act)
    assert (ids(work.done), work.failed, work.detached) == (["A", "C"], {}, [])
    assert orders[1].lost
    assert await act.made() == {"A": 1, "C": 1}
    alone = StepExecution(ACT, [orders[1]])
    orders[1].lost = False
    with pytest.raises(LeaseLost):
        await run_in_database(alone, act)
    assert await act.made() == {"A": 1, "C": 1}


async def test_a_single_orders_no_is_raised_and_journalled(stocked: Shop) -> None:
    (order,) = await some(stocked, "A")
    work = StepExecution(ACT, [order])
    with pytest.raises(OutOfStock):
        await run_in_database(work, Effects(stocked, A=OutOfStock([Shortage("A", 1, 0)])))
    assert await statuses(stocked) == {"A": "failed"}
    await run_in_database(work, Effects(stocked))
    row = await stocked.step("A", "act")
    assert (row.status, row.attempts, row.error, row.result) == ("done", 2, None, {"piece": "A"})


async def test_a_carrier_that_cannot_be_reached_lets_its_orders_leave_the_batch(stocked: Shop) -> None:
    """A retryable "no" of a database step: the order goes on alone, and if it is more than a fifth the batch tries again together."""
    orders = await some(stocked, *"ABCDEFGHIJ")
    act, work = Effects(stocked, C=CarrierUnavailable("down")), StepExecution(SHIP, orders)
    await run_in_database(work, act)
    assert ids(work.detached) == ["C"]
    assert len(work.done) == 9
    act.ends.clear()
    await run_in_database(StepExecution(SHIP, work.detached), act)
    assert await act.made() == dict.fromkeys("ABCDEFGHIJ", 1)
