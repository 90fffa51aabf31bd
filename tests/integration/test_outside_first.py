"""A step in the database that something outside comes before, and the undo of both; without Prefect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from saga.database import Tx
from saga.definition import Kind, Step
from saga.errors import LeaseLost, SagaCancelled, StepError, UnexpectedStepError
from saga.execution import StepExecution
from saga.external_action import run_external
from shop.orders.order import OrderInstance
from shop.shipping.errors import CarrierRefused, CarrierUnavailable
from tests.integration.domain import Shop, an_order

pytest_plugins = ["tests.integration.domain_fixtures"]


async def not_run(work: Any) -> None:
    """Tests call `run_external` themselves."""


SHIP = Step(not_run, not_run, Kind.PIVOT, 30, 0, name="ship")


class Outside:
    """Something outside that is made, and in the end there or not."""

    def __init__(self, **refusals: StepError) -> None:
        self.refusals, self.calls = refusals, list[str]()

    async def __call__(self, order: OrderInstance) -> dict[str, Any]:
        self.calls.append(order.id)
        if order.id in self.refusals:
            raise self.refusals[order.id]
        return {"made": order.id}


class Inside:
    """What is then done in the transaction."""

    def __init__(self, *, error: Exception | None = None, at: str | None = None, **refusals: StepError) -> None:
        self.error, self.at, self.refusals = error, at, refusals
        self.batches: list[list[str]] = []

    async def __call__(self, tx: Tx, orders: Sequence[OrderInstance]) -> Mapping[str, dict[str, Any] | StepError]:
        self.batches.append([order.id for order in orders])
        if self.error is not None and (self.at is None or self.at in self.batches[-1]):
            raise self.error
        return {order.id: self.refusals.get(order.id) or {"shipped": order.id} for order in orders}


async def some(shop: Shop, *ids: str) -> list[OrderInstance]:
    return await shop.instance(*map(an_order, ids))


async def test_outside_first_then_one_transaction(shop: Shop) -> None:
    orders = await some(shop, "A", "B", "C")
    work, outside, inside = StepExecution(SHIP, orders), Outside(B=CarrierRefused("no")), Inside()
    await run_external(work, outside, inside)
    assert [order.id for order in work.done] == ["A", "C"]
    assert {order.id for order in work.failed} == {"B"}
    assert inside.batches == [["A", "C"]], "who was refused outside is not asked for here"
    done, refused = await shop.step("A", "ship"), await shop.step("B", "ship")
    assert (done.status, done.result, done.undo_due) == ("done", {"shipped": "A"}, False)
    assert (refused.status, refused.undo_due) == ("failed", True), "something may be there: it is undone"


async def test_from_the_beginning_on_its_undo_is_due(shop: Shop) -> None:
    orders = await some(shop, "A")

    async def look(order: OrderInstance) -> dict[str, Any]:
        row = await shop.step("A", "ship")
        assert (row.status, row.undo_due) == ("begun", True)
        return {}

    await run_external(StepExecution(SHIP, orders), look, Inside())
    assert not (await shop.step("A", "ship")).undo_due


async def test_what_the_transaction_refuses_is_undone(shop: Shop) -> None:
    orders = await some(shop, "A")
    with pytest.raises(SagaCancelled):
        await run_external(StepExecution(SHIP, orders), Outside(), Inside(A=SagaCancelled("not wanted")))
    assert orders[0].undo_plan() == ("ship",)
    row = await shop.step("A", "ship")
    assert (row.status, row.undo_due) == ("failed", True)


async def test_the_database_away_is_no_reason_to_ask_outside_again(shop: Shop) -> None:
    orders = await some(shop, "A", "B")
    work, outside = StepExecution(SHIP, orders), Outside()
    away = OperationalError("SELECT 1", {}, Exception("server closed the connection"))
    with pytest.raises(OperationalError):
        await run_external(work, outside, Inside(error=away))
    await run_external(work, outside, Inside())
    assert sorted(outside.calls) == ["A", "B"]
    assert len(work.done) == 2


async def test_one_order_that_spoils_the_statement_fails_alone(shop: Shop) -> None:
    orders = await some(shop, "A", "B")
    outside, inside = Outside(), Inside(error=ZeroDivisionError(), at="B")
    work = StepExecution(SHIP, orders)
    await run_external(work, outside, inside)
    assert {order.id for order in work.detached} == {"A", "B"}
    await run_external(StepExecution(SHIP, orders[:1]), outside, inside)
    with pytest.raises(UnexpectedStepError):
        await run_external(StepExecution(SHIP, orders[1:]), outside, inside)
    assert sorted(outside.calls) == ["A", "B"], "nobody is asked twice"
    assert (await shop.step("A", "ship")).status == "done"
    assert ((await shop.step("B", "ship")).status, orders[1].undo_plan()) == ("failed", ("ship",))


async def test_undoing_is_both_too(shop: Shop) -> None:
    orders = await some(shop, "A")
    with pytest.raises(CarrierRefused):
        await run_external(StepExecution(SHIP, orders), Outside(A=CarrierRefused("no")), Inside())
    with pytest.raises(CarrierUnavailable):
        await run_external(StepExecution(SHIP, orders, undo=True), Outside(A=CarrierUnavailable("away")), Inside())
    assert orders[0].undo_plan() == ("ship",), "not done, so it stays due"
    with pytest.raises(UnexpectedStepError):
        await run_external(StepExecution(SHIP, orders, undo=True), Outside(), Inside(error=ZeroDivisionError()))
    assert orders[0].undo_plan() == ("ship",)
    await run_external(StepExecution(SHIP, orders, undo=True), Outside(), Inside())
    row = await shop.step("A", "ship")
    assert (row.undo_status, row.undo_due, row.undo_result) == ("done", False, {"shipped": "A"})


async def test_who_lost_the_order_ships_nothing(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    inside = Inside()

    async def lose(_: OrderInstance) -> dict[str, Any]:
        await shop.let_leases_run_out("A")
        await shop.claim("A")
        return {}

    with pytest.raises(LeaseLost):
        await run_external(StepExecution(SHIP, [order]), lose, inside)
    assert inside.batches == []
