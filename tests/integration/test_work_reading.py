"""Steps that change nothing: what they found is journalled with whatever comes next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest
from sqlalchemy.exc import OperationalError

from shop.database import Tx
from shop.ending import finish
from shop.errors import (
    CarrierUnavailable,
    PaymentGatewayError,
    StepBroken,
)
from shop.saga import Saga
from shop.under_way import OrderUnderWay
from shop.work import Work, run_in_database, run_outside, run_reading
from tests.integration.domain import Shop
from tests.integration.scripted import READ, SHIP, Ends, Outside, busy, failing_commits, ids, some, statuses

pytest_plugins = ["tests.integration.domain_fixtures", "tests.integration.work_fixtures"]


async def read_ok(tx: Tx, orders: Sequence[OrderUnderWay]) -> Ends:
    return {order.id: {"read": order.id} for order in orders}


async def write_ok(tx: Tx, orders: Sequence[OrderUnderWay]) -> Ends:
    return {order.id: {"wrote": order.id} for order in orders}


Runner = Callable[[list[OrderUnderWay]], Awaitable[None]]


async def read_in_database(orders: list[OrderUnderWay]) -> None:
    await run_in_database(Work(READ, orders), read_ok)


async def read_outside(orders: list[OrderUnderWay]) -> None:
    async def act(order: OrderUnderWay) -> Ends:
        return {"read": order.id}

    await run_outside(Work(READ, orders), act)


@pytest.mark.parametrize("read", [read_in_database, read_outside])
@pytest.mark.parametrize("n", [1, 3])
async def test_what_was_read_is_in_the_journal_with_what_comes_next(shop: Shop, read: Runner, n: int) -> None:
    orders = await some(shop, *"ABC"[:n])
    await read(orders)
    assert all(order.result("read") == {"read": order.id} for order in orders)
    assert [order.undo_plan() for order in orders] == [()] * n
    await run_in_database(Work(SHIP, orders), write_ok)
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
    ship = Work(SHIP, orders)
    run: Callable[[], Awaitable[None]] = (lambda: run_outside(ship, Outside())) if outside else (lambda: run_in_database(ship, write_ok))
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
    ship = Work(SHIP, [order])
    with monkeypatch.context() as patch:
        failing_commits(patch, arrives=arrives)
        with pytest.raises(OperationalError):
            await run_in_database(ship, write_ok)
    await run_in_database(ship, write_ok)
    assert order.result("read") == {"read": "A"}
    assert (await shop.step("A", "read")).result == {"read": "A"}


async def test_attempts_at_reading_are_counted_too(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    act, work = Outside(A=[busy(), busy()]), Work(READ, [order])
    for _ in range(2):
        with pytest.raises(PaymentGatewayError):
            await run_outside(work, act)
    await run_outside(work, act)
    await run_in_database(Work(SHIP, [order]), write_ok)
    row = await shop.step("A", "read")
    assert (row.status, row.attempts) == ("done", 3)


async def test_a_reading_that_left_its_batch_does_not_break_the_next_step(shop: Shop) -> None:
    """It failed in the batch, in a way that may pass, and succeeded alone: two ends of one step, until they are written."""
    orders = await some(shop, *"AB")

    async def busy_for_a(tx: Tx, batch: Sequence[OrderUnderWay]) -> Ends:
        return {order.id: CarrierUnavailable("down") if order.id == "A" and len(batch) > 1 else {"read": order.id} for order in batch}

    batch = Work(READ, orders)
    await run_in_database(batch, busy_for_a)
    assert ids(batch.alone) == ["A"]
    await run_in_database(Work(READ, batch.alone), busy_for_a)
    await run_in_database(Work(SHIP, orders), write_ok)
    assert await statuses(shop, "ship") == {"A": "done", "B": "done"}
    assert await statuses(shop, "read") == {"A": "done", "B": "done"}


async def test_a_reading_that_failed_is_journalled_when_the_order_ends(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    work = Work(READ, [order])
    with pytest.raises(StepBroken):
        await run_outside(work, Outside(A=ZeroDivisionError()))
    order.fail("read", StepBroken("read", ZeroDivisionError()))
    assert await finish([order], Saga(READ, SHIP)) == {"A": "compensated"}
    assert await statuses(shop, "read") == {"A": "failed"}


async def test_who_only_reads_is_given_few_orders_at_a_time() -> None:
    """So time and memory are bounded, however many orders a batch has and however long each takes."""
    given: list[int] = []

    async def act(orders: Sequence[OrderUnderWay]) -> Ends:
        given.append(len(orders))
        return {order.id: StepBroken("read", ValueError()) if order.id == "77" else {"read": order.id} for order in orders}

    work = Work(READ, [OrderUnderWay(str(i), {}, 1) for i in range(120)])
    await run_reading(work, act)
    assert sum(given) == 120
    assert max(given) <= 50
    assert [order.id for order in work.failed] == ["77"]
    assert len(work.done) == 119
    assert all(order.result("read") == {"read": order.id} for order in work.done)
