"""Undoing for many orders: results are recorded, what breaks stays due, and nothing is made twice."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pytest

from saga.database import Tx
from saga.database_action import run_in_database
from saga.errors import UnexpectedStepError
from saga.execution import StepExecution
from saga.external_action import run_external
from shop.inventory import embedded
from shop.inventory.port import STEP
from shop.orders.order import OrderInstance
from shop.payments.errors import PaymentGatewayError, RefundRefused
from tests.integration.domain import Shop, an_order
from tests.integration.scripted import ACT, Ends, Outside, busy, ids, some, step

pytest_plugins = ["tests.integration.domain_fixtures", "tests.integration.work_fixtures"]


async def test_an_undo_in_the_database_records_its_results(shop: Shop) -> None:
    await shop.add_stock(P=10)
    orders = await shop.instance(*(an_order(i, ("P", 2)) for i in "ABC"))
    reserve = step(name=STEP)
    await run_in_database(StepExecution(reserve, orders[:2]), embedded.reserve)
    assert await shop.stock("P") == (10, 4)
    for _ in range(2):
        work = StepExecution(reserve, orders, undo=True)
        await run_in_database(work, embedded.release)
        assert await shop.stock("P") == (10, 0)
        assert sorted(ids(work.done)) == list("ABC"), "what never began needs no undoing"
    rows = {row.order_id: row for row in await shop.rows("SELECT * FROM order_step")}
    assert sorted(rows) == ["A", "B"]
    for row in rows.values():
        assert (row.status, row.undo_status, row.undo_due, row.undo_attempts) == ("done", "done", False, 1)
        assert row.undo_result["released_items"] == {"P": 2}
    assert [order.undo_plan() for order in orders] == [(), (), ()]


async def test_an_undo_outside_records_its_results(shop: Shop) -> None:
    orders = await some(shop, *"ABCDEF")
    await run_external(StepExecution(ACT, orders), Outside())
    refused = RefundRefused("no", "never", payment_id="p", charged=Decimal("10.00"), refunded=Decimal(0), currency="USD", refusals=1)
    act, work = Outside(B=refused, C=busy()), StepExecution(ACT, orders, undo=True)
    await run_external(work, act)
    assert (ids(work.done), ids(list(work.failed)), ids(work.detached)) == (list("ADEF"), ["B"], ["C"])
    rows = {row.order_id: row for row in await shop.rows("SELECT * FROM order_step")}
    assert {i: (row.undo_status, row.undo_due) for i, row in rows.items()} == {
        **dict.fromkeys("ADEF", ("done", False)),
        "B": ("failed", True),
        "C": ("begun", True),
    }
    assert rows["B"].undo_error["amount_at_risk"] == "10.00"
    assert rows["A"].undo_result == {"called": "A"}
    assert {row.status for row in rows.values()} == {"done"}, "that it was done is not forgotten"
    alone = StepExecution(ACT, work.detached, undo=True)
    await run_external(alone, act)
    assert alone.summary() == {"called": "C"}
    with pytest.raises(RefundRefused):
        await run_external(StepExecution(ACT, [orders[1]], undo=True), Outside(B=refused))
    assert (await shop.step("B", "act")).undo_attempts == 2
    assert orders[1].undo_plan() == ("act",)
    await run_external(StepExecution(ACT, orders, undo=True), act)
    assert act.calls == {**dict.fromkeys("ADEF", 1), "B": 2, "C": 2}


async def test_an_undo_that_breaks_stays_due(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    await run_external(StepExecution(ACT, [order]), Outside())

    async def breaks(tx: Tx, orders: Sequence[OrderInstance]) -> Ends:
        raise ZeroDivisionError

    with pytest.raises(UnexpectedStepError):
        await run_in_database(StepExecution(ACT, [order], undo=True), breaks)
    row = await shop.step("A", "act")
    assert (row.undo_status, row.undo_due, row.undo_error["code"]) == ("failed", True, "step_broken")


async def test_what_only_began_is_undone_too(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    with pytest.raises(PaymentGatewayError):
        await run_external(StepExecution(ACT, [order]), Outside(A=busy()))
    act = Outside()
    await run_external(StepExecution(ACT, [order], undo=True), act)
    assert act.calls == {"A": 1}
    assert order.undo_plan() == ()


async def test_a_slow_undo_leaves_the_batch_and_is_not_made_twice(shop: Shop) -> None:
    orders = await some(shop, *"AB")
    await run_external(StepExecution(ACT, orders), Outside())
    act, work = Outside(), StepExecution(ACT, orders, undo=True, straggler_timeout=0.2)
    answer = act.slow("B")
    await run_external(work, act)
    assert ids(work.detached) == ["B"]
    answer.set()
    await run_external(StepExecution(ACT, work.detached, undo=True), act)
    assert act.calls == {"A": 1, "B": 1}
    assert {row.undo_status for row in await shop.rows("SELECT * FROM order_step")} == {"done"}
