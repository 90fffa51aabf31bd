"""Steps that change nothing: what they found is journalled with whatever comes next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest
from sqlalchemy.exc import OperationalError

from saga.database import Tx
from saga.database_action import run_in_database, run_reading
from saga.definition import Saga
from saga.errors import UnexpectedStepError
from saga.execution import StepExecution
from saga.external_action import run_external
from saga.finish import finish
from shop.orders.order import OrderInstance
from shop.orders.store import ORDERS
from shop.payments.errors import PaymentGatewayError
from shop.shipping.errors import CarrierUnavailable
from tests.integration.domain import Shop
from tests.integration.scripted import READ, SHIP, Ends, Outside, busy, failing_commits, ids, some, statuses

pytest_plugins = ["tests.integration.domain_fixtures", "tests.integration.work_fixtures"]


async def read_ok(tx: Tx, orders: Sequence[OrderInstance]) -> Ends:
    return {order.id: {"read": order.id} for order in orders}


async def write_ok(tx: Tx, orders: Sequence[OrderInstance]) -> Ends:
    return {order.id: {"wrote": order.id} for order in orders}


Runner = Callable[[list[OrderInstance]], Awaitable[None]]


async def read_in_database(orders: list[OrderInstance]) -> None:
    await run_in_database(StepExecution(READ, orders), read_ok)


async def read_outside(orders: list[OrderInstance]) -> None:
    async def act(order: OrderInstance) -> Ends:
        return {"read": order.id}

    await run_external(StepExecution(READ, orders), act)


@pytest.mark.parametrize("read", [read_in_database, read_outside])
@pytest.mark.parametrize("n", [1, 3])
async def test_what_was_read_is_in_the_journal_with_what_comes_next(shop: Shop, read: Runner, n: int) -> None:
    orders = await some(shop, *"ABC"[:n])
    await read(orders)
    assert all(order.result("read") == {"read": order.id} for order in orders)
    assert [order.undo_plan() for order in orders] == [()] * n
    await run_in_database(StepExecution(SHIP, orders), write_ok)
    assert await statuses(shop, "read") == dict.fromkeys("ABC"[:n], "done")
    rows = await shop.rows("SELECT step FROM order_step WHERE order_id = 'A' ORDER BY number")
    assert [row.step for row in rows] == ["read", "ship"]


@pytest.mark.parametrize("read", [read_in_database, read_outside])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("outside", [False, True])
async def test_what_was_read_survives_trouble_in_the_next_step(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, read: Runner, n: int, outside: bool
) -> None:
    """The confirmation that was written must be in the mail, though the database was away for a moment when the order was shipped."""
    orders = await some(shop, *"ABC"[:n])
    await read(orders)
    ship = StepExecution(SHIP, orders)
    run: Callable[[], Awaitable[None]] = (lambda: run_external(ship, Outside())) if outside else (lambda: run_in_database(ship, write_ok))
    with monkeypatch.context() as patch:
        failing_commits(patch, arrives=False)
        with pytest.raises(OperationalError):
            await run()
    await run()
    assert all(order.done("ship") for order in orders)
    assert [order.result("read") for order in orders] == [{"read": order.id} for order in orders]
    assert await statuses(shop, "read") == dict.fromkeys("ABC"[:n], "done")


@pytest.mark.parametrize("arrives", [True, False])
async def test_what_was_read_survives_an_unclear_commit(shop: Shop, monkeypatch: pytest.MonkeyPatch, arrives: bool) -> None:
    (order,) = await some(shop, "A")
    await read_outside([order])
    ship = StepExecution(SHIP, [order])
    with monkeypatch.context() as patch:
        failing_commits(patch, arrives=arrives)
        with pytest.raises(OperationalError):
            await run_in_database(ship, write_ok)
    await run_in_database(ship, write_ok)
    assert order.result("read") == {"read": "A"}
    assert (await shop.step("A", "read")).result == {"read": "A"}


async def test_attempts_at_reading_are_counted_too(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    act, work = Outside(A=[busy(), busy()]), StepExecution(READ, [order])
    for _ in range(2):
        with pytest.raises(PaymentGatewayError):
            await run_external(work, act)
    await run_external(work, act)
    await run_in_database(StepExecution(SHIP, [order]), write_ok)
    row = await shop.step("A", "read")
    assert (row.status, row.attempts) == ("done", 3)


async def test_a_reading_that_left_its_batch_does_not_break_the_next_step(shop: Shop) -> None:
    """It failed in the batch, in a way that may pass, and succeeded alone: two ends of one step, until they are written."""
    orders = await some(shop, *"AB")

    async def busy_for_a(tx: Tx, batch: Sequence[OrderInstance]) -> Ends:
        return {order.id: CarrierUnavailable("down") if order.id == "A" and len(batch) > 1 else {"read": order.id} for order in batch}

    batch = StepExecution(READ, orders)
    await run_in_database(batch, busy_for_a)
    assert ids(batch.detached) == ["A"]
    await run_in_database(StepExecution(READ, batch.detached), busy_for_a)
    await run_in_database(StepExecution(SHIP, orders), write_ok)
    assert await statuses(shop, "ship") == {"A": "done", "B": "done"}
    assert await statuses(shop, "read") == {"A": "done", "B": "done"}


async def test_a_reading_that_failed_is_journalled_when_the_order_ends(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    work = StepExecution(READ, [order])
    with pytest.raises(UnexpectedStepError):
        await run_external(work, Outside(A=ZeroDivisionError()))
    order.fail("read", UnexpectedStepError("read", ZeroDivisionError()))
    assert await finish([order], Saga(READ, SHIP)) == {"A": "compensated"}
    assert await statuses(shop, "read") == {"A": "failed"}


async def test_who_only_reads_is_given_few_orders_at_a_time() -> None:
    """So time and memory are bounded, however many orders a batch has and however long each takes."""
    given: list[int] = []

    async def act(orders: Sequence[OrderInstance]) -> Ends:
        given.append(len(orders))
        return {order.id: UnexpectedStepError("read", ValueError()) if order.id == "77" else {"read": order.id} for order in orders}

    work = StepExecution(READ, [OrderInstance(str(i), {}, 1, ORDERS) for i in range(120)])
    await run_reading(work, act)
    assert sum(given) == 120
    assert max(given) <= 50
    assert [order.id for order in work.failed] == ["77"]
    assert len(work.done) == 119
    assert all(order.result("read") == {"read": order.id} for order in work.done)
