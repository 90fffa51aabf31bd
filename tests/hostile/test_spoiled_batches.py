"""One order spoils, every time, what its batch shares with it (a claim, the end, being handed back):
the others do not wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from deployments.environment import environment
from flows.housekeeping import housekeeping
from flows.process_pending_orders import process_pending_orders
from shop.orders import intake
from shop.orders.outcomes import Outcome
from tests.faults.witness import PRICE, PRODUCT, STOCK, order_of, stock_up
from tests.integration.world import World
from tests.waiting import until

ENDING = "OLD.outcome IS NULL AND NEW.outcome IS NOT NULL"
HANDED_BACK = "OLD.lease_id IS NOT NULL AND NEW.lease_id IS NULL AND NEW.outcome IS NULL"
ITS_OWN, THE_DATABASES, INTERNAL = "22012", "40001", "XX000"
"""SQLSTATEs: of an error that is about the data,
and of two that are about the server: it helps to try again, or not."""


class Spoiler:
    """Makes the database fail whenever it is to write such a change."""

    def __init__(
        self, world: World, name: str, when: str, *, code: str = ITS_OWN, times: int = 10**9
    ) -> None:
        self._world, self._name = world, name
        world.sql(f"CREATE SEQUENCE {name}")
        world.sql(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF nextval('{name}') <= {times} THEN "
            f"RAISE EXCEPTION 'spoiled' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$"
        )
        world.sql(
            f"CREATE TRIGGER {name} BEFORE UPDATE ON customer_order "
            f"FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION {name}()"
        )

    @property
    def hits(self) -> int:
        """How often it was met; a sequence is not rolled back."""
        ((last, called),) = self._world.sql(f"SELECT last_value, is_called FROM {self._name}")
        return int(last) if called else 0

    def end(self) -> None:
        self._world.sql(f"DROP TRIGGER {self._name} ON customer_order")


def batch(
    unique: str, kind: str = "good", n: int = 6, **fields: Any
) -> tuple[list[dict[str, Any]], str, list[str]]:
    """Submits orders of that kind. Returns them,
    the id of the one that will spoil, and those of the others."""
    orders = [order_of(kind, f"{unique}-{i}", **fields) for i in range(n)]
    intake.submit(orders)
    return orders, orders[2]["id"], [order["id"] for i, order in enumerate(orders) if i != 2]


def outcomes(world: World, ids: list[str]) -> set[str | None]:
    return {
        row.outcome
        for row in world.sql(
            "SELECT outcome FROM customer_order WHERE id = ANY(CAST(:ids AS text[]))", ids=ids
        )
    }


@asynccontextmanager
async def consuming(**env: str) -> AsyncIterator[None]:
    with environment({"POLL_SECONDS": "0.2", **env}):
        consumer = asyncio.create_task(process_pending_orders(consumer_seconds=300))
        try:
            yield
        finally:
            consumer.cancel()
            await asyncio.gather(consumer, return_exceptions=True)


@pytest.mark.parametrize("recover", [False, True], ids=["consumer", "recovery"])
@pytest.mark.parametrize(
    ("kind", "fields", "outcome", "money"),
    [
        ("good", {}, Outcome.COMPLETED, (PRICE, 0)),
        ("good", {"items": []}, Outcome.REJECTED, (0, 0)),
        ("unshippable", {}, Outcome.COMPENSATED, (PRICE, PRICE)),
    ],
    ids=["completed", "rejected", "undone"],
)
async def test_an_end_that_cannot_be_written_fails_only_its_order(
    saga: World, unique: str, kind: str, fields: dict[str, Any], outcome: str, money: Any, recover: bool
) -> None:
    stock_up(saga)
    orders, culprit, others = batch(unique, kind, **fields)
    spoiler = Spoiler(saga, "spoiled_end", f"{ENDING} AND NEW.id = '{culprit}'")
    if recover:
        saga.sql("UPDATE customer_order SET fence = 1")
    await (housekeeping() if recover else process_pending_orders(consumer_seconds=0))
    assert outcomes(saga, others) == {outcome}
    row = saga.order(culprit)
    assert (row.outcome, row.lease_id, row.lone_deaths) == (None, None, 0)
    assert saga.sql("SELECT not_before > submitted_at FROM customer_order WHERE id = :id", id=culprit) == [
        (True,)
    ], "it waits"

    spoiler.end()
    saga.sql("UPDATE customer_order SET not_before = NULL")
    await process_pending_orders(consumer_seconds=0)
    assert outcomes(saga, [culprit]) == {outcome}
    assert {saga.money(order["id"]) for order in orders} == {money}
    assert {saga.charges(order["id"]) for order in orders} == {int(money[0] > 0)}
    shipped = len(orders) * (outcome is Outcome.COMPLETED)
    assert saga.stock(PRODUCT) == (STOCK - shipped, 0)
    saga.assert_books_balance()


async def test_an_order_that_left_its_batch_is_released_while_the_batch_continues(
    saga: World, unique: str
) -> None:
    stock_up(saga)
    orders = [order_of("short" if i == 2 else "good", f"{unique}-{i}") for i in range(6)]
    short = orders[2]["id"]
    Spoiler(saga, "spoiled_end", f"{ENDING} AND NEW.id = '{short}'", code=THE_DATABASES, times=1)
    saga.misbehave(latency_ms=1_000)  # the others are at the payment meanwhile
    try:
        intake.submit(orders)

        async def ended() -> bool:
            return outcomes(saga, [order["id"] for order in orders]) == {
                Outcome.COMPLETED,
                Outcome.OUT_OF_STOCK,
            }

        async with consuming(PAYMENT_TIMEOUT_SECONDS="30"):
            await until(ended, 30, "all orders to end while the consumer lives")
    finally:
        saga.misbehave(latency_ms=0)
    assert saga.order(short).outcome == Outcome.OUT_OF_STOCK
    assert {saga.charges(order["id"]) for order in orders if order["id"] != short} == {1}
    assert saga.stock(PRODUCT) == (STOCK - 5, 0)
    saga.assert_books_balance()


@pytest.mark.parametrize("kind", ["good", "unshippable"])
@pytest.mark.short_form("good")
async def test_a_repeated_database_error_of_one_order_does_not_affect_the_others(
    saga: World, unique: str, kind: str
) -> None:
    """By its code it is the server's trouble, so that the batch is tried again; but not for ever."""
    stock_up(saga)
    orders, culprit, others = batch(unique, kind)
    outcome, money = (
        (Outcome.COMPLETED, (PRICE, 0)) if kind == "good" else (Outcome.COMPENSATED, (PRICE, PRICE))
    )
    spoiler = Spoiler(saga, "spoiled_end", f"{ENDING} AND NEW.id = '{culprit}'", code=INTERNAL)

    async def ended(ids: list[str]) -> bool:
        return outcomes(saga, ids) == {outcome}

    async def waits_longer() -> bool:
        return saga.order(culprit).lease_id is None and saga.order(culprit).fence > 2

    async with consuming():
        await until(lambda: ended(others), 40, "the others to end")
        await until(waits_longer, 40, "the last one to wait")
        assert outcomes(saga, [culprit]) == {None}
        spoiler.end()
        await until(lambda: ended([culprit]), 40, "the last one to end")
    assert {saga.money(order["id"]) for order in orders} == {money}
    assert {saga.charges(order["id"]) for order in orders} == {1}
    assert saga.stock(PRODUCT) == (STOCK - len(orders) * (kind == "good"), 0)
    saga.assert_books_balance()


async def test_the_pause_of_an_order_that_cannot_end_grows(saga: World, unique: str) -> None:
    _, culprit, _ = batch(unique, n=3)
    Spoiler(saga, "spoiled_end", f"{ENDING} AND NEW.id = '{culprit}'")
    fences = []
    for _ in range(4):
        saga.sql("UPDATE customer_order SET not_before = NULL")
        began = saga.sql("SELECT clock_timestamp()")[0][0]
        await process_pending_orders(consumer_seconds=0)
        row = saga.order(culprit)
        fences.append(row.fence)
        assert (row.not_before - began).total_seconds() >= 2**row.fence, (
            "however long a round takes, it was postponed only within it"
        )
    assert fences == sorted(set(fences)), "from claim to claim it doubles"
    assert saga.charges(culprit) == 1


@pytest.mark.parametrize("recover", [False, True], ids=["consumer", "recovery"])
async def test_an_order_that_cannot_be_claimed_does_not_block_the_others(
    saga: World, unique: str, recover: bool
) -> None:
    stock_up(saga)
    _, culprit, others = batch(unique)
    if recover:
        saga.sql("UPDATE customer_order SET fence = 1")
    saga.sql(
        """UPDATE customer_order SET failure = '"unreadable"', failing_step = 'check_inventory' """
        "WHERE id = :id",
        id=culprit,
    )
    await (housekeeping() if recover else process_pending_orders(consumer_seconds=0))
    assert outcomes(saga, others) == {Outcome.COMPLETED}
    assert {saga.charges(order_id) for order_id in others} == {1}
    row = saga.order(culprit)
    assert (row.outcome, row.lease_id) == (None, None)
    saga.sql("UPDATE customer_order SET failure = NULL, failing_step = NULL, not_before = NULL")
    await process_pending_orders(consumer_seconds=0)
    assert outcomes(saga, [culprit]) == {Outcome.COMPLETED}
    assert saga.stock(PRODUCT) == (STOCK - 6, 0)
    saga.assert_books_balance()


@pytest.mark.parametrize("code", [ITS_OWN, THE_DATABASES])
async def test_a_release_that_fails_for_a_while_is_retried(saga: World, unique: str, code: str) -> None:
    """The worker lives, and renews its short lease."""
    stock_up(saga)
    orders, _, _ = batch(unique)
    once = Spoiler(saga, "spoiled_end", ENDING, code=THE_DATABASES, times=2)
    twice = Spoiler(saga, "spoiled_hand_back", HANDED_BACK, code=code, times=2)

    async def ended() -> bool:
        return outcomes(saga, [order["id"] for order in orders]) == {Outcome.COMPLETED}

    async with consuming(LEASE_SECONDS="300"):
        await until(ended, 30, "all orders to end, long before the lease")
    assert once.hits > 1
    assert twice.hits > 2
    assert {saga.charges(order["id"]) for order in orders} == {1}
    assert {row.takeovers for row in saga.sql("SELECT takeovers FROM customer_order")} == {0}
    assert saga.stock(PRODUCT) == (STOCK - 6, 0)


@pytest.mark.parametrize("code", [ITS_OWN, INTERNAL])
async def test_an_order_that_cannot_be_released_does_not_block_the_others(
    saga: World, unique: str, code: str
) -> None:
    """Not even when that lasts for longer than a lease; it is handed back as soon as that is possible."""
    stock_up(saga)
    orders, culprit, others = batch(unique)
    Spoiler(saga, "spoiled_end", ENDING, code=THE_DATABASES, times=2)
    spoiler = Spoiler(saga, "spoiled_hand_back", f"{HANDED_BACK} AND NEW.id = '{culprit}'", code=code)

    async def others_ended() -> bool:
        return outcomes(saga, others) == {Outcome.COMPLETED}

    async def ended() -> bool:
        return outcomes(saga, [order["id"] for order in orders]) == {Outcome.COMPLETED}

    async with consuming(LEASE_SECONDS="2"):
        await until(others_ended, 30, "the others to end")
        tries = spoiler.hits
        await until(lambda: _more(spoiler, tries + 8), 30, "it to be tried for longer than a lease")
        spoiler.end()
        await until(ended, 30, "the last one to end")
    assert {saga.charges(order["id"]) for order in orders} == {1}
    assert saga.stock(PRODUCT) == (STOCK - 6, 0)
    saga.assert_books_balance()


async def _more(spoiler: Spoiler, hits: int) -> bool:
    return spoiler.hits > hits
