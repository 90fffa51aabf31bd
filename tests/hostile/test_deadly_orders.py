"""One order kills whoever works on it, in a batch with good ones:
the good ones complete, and only that one is given up."""

from __future__ import annotations

import math
import signal
import time

import pytest

from saga.errors import TooManyTakeovers
from shop.orders import intake, report
from shop.orders.outcomes import Outcome
from tests.faults.witness import PRICE, PRODUCT, STOCK, order_of, stock_up
from tests.integration.world import World
from tests.waiting import TIMEOUT_FACTOR, until
from tests.worker_forkserver.forkserver import Forkserver, Process

QUICK = {"LEASE_SECONDS": "1", "POLL_SECONDS": "0.2", "MAX_TAKEOVERS": "1"}
SHIPPING, UNDOING, NOTIFYING = (
    "tasks.fulfill_order:fulfil",
    "saga.journal:begin_undo",
    "tasks.notify_customer:notify",
)


_OPEN = "SELECT 1 FROM customer_order WHERE outcome IS NULL LIMIT 1"


def consume(
    world: World,
    forkserver: Forkserver,
    deadly: tuple[str, str],
    *,
    batch_size: int,
    until_none: str = _OPEN,
) -> int:
    """Starts a consumer, and another one whenever it has died, until all orders have ended, or there are no
    more of these. Returns how many died."""
    deaths, end = 0, time.monotonic() + 90 * TIMEOUT_FACTOR
    consumer: Process | None = None
    while world.sql(until_none):
        assert time.monotonic() < end, f"{deaths} consumers died, and orders are left"
        if consumer is not None and not consumer.running():
            assert consumer.code == -9, f"a consumer ended by itself ({consumer.code})"
            deaths, consumer = deaths + 1, None
        consumer = consumer or forkserver.consumer(600, batch_size=batch_size, env=QUICK, deadly=deadly)
        time.sleep(0.05)
    if consumer is not None:
        consumer.signal(signal.SIGKILL)  # else it may take up what a test does next
        consumer.gone(10)
    return deaths


def assert_all_but(world: World, order_id: str, good: list[str]) -> None:
    """The good ones were charged and shipped once, and nothing is held against them."""
    ends = report.read([*good, order_id])
    assert {ends[i].outcome for i in good} == {Outcome.COMPLETED}
    assert {world.charges(i) for i in good} == {1}
    assert {world.shipments(i) for i in good} == {1}
    assert world.stock(PRODUCT) == (STOCK - len(good), 0)
    assert {
        row.lone_deaths
        for row in world.sql("SELECT lone_deaths FROM customer_order WHERE id <> :id", id=order_id)
    } == {0}
    world.assert_books_balance()


@pytest.mark.parametrize("batch_size", [8, 400])
@pytest.mark.short_form("8")
def test_only_the_order_that_kills_its_workers_is_given_up(
    saga: World, forkserver: Forkserver, unique: str, batch_size: int
) -> None:
    """It is charged before it kills, so its money goes back."""
    stock_up(saga)
    orders = [order_of("good", f"{unique}-{i}") for i in range(24)]
    deadly, good = orders[5]["id"], [order["id"] for i, order in enumerate(orders) if i != 5]
    intake.submit(orders)
    deaths = consume(saga, forkserver, (deadly, SHIPPING), batch_size=batch_size)
    assert_all_but(saga, deadly, good)
    row = saga.order(deadly)
    assert (row.outcome, row.failure["code"], row.lone_deaths) == (
        Outcome.COMPENSATED,
        TooManyTakeovers.code,
        2,
    )
    assert saga.money(deadly) == (PRICE, PRICE)
    assert saga.shipments(deadly) == 0
    assert deaths <= 2 * math.ceil(math.log2(len(orders))), "it is not searched by halves"


def test_an_order_whose_undoing_kills_its_workers_goes_to_review(
    saga: World, forkserver: Forkserver, unique: str
) -> None:
    stock_up(saga)
    orders = [order_of("unshippable" if i == 3 else "good", f"{unique}-{i}") for i in range(8)]
    deadly, good = orders[3]["id"], [order["id"] for i, order in enumerate(orders) if i != 3]
    intake.submit(orders)
    consume(saga, forkserver, (deadly, UNDOING), batch_size=8)
    row = saga.order(deadly)
    assert (row.outcome, row.failing_step, row.amount_at_risk) == (
        Outcome.NEEDS_ATTENTION,
        "fulfill_order",
        PRICE,
    )
    assert saga.money(deadly) == (PRICE, 0)
    ends = report.read(good)
    assert {end.outcome for end in ends.values()} == {Outcome.COMPLETED}
    assert {saga.charges(order_id) for order_id in good} == {1}
    shown = [
        (undone.step, undone.status, undone.details["code"])
        for undone in report.read([deadly])[deadly].undone
    ]
    assert ("process_payment", "failed", TooManyTakeovers.code) in shown, (
        "no try was ever written down, and yet it is shown as failed"
    )
    assert saga.sql("SELECT error_code FROM attention WHERE order_id = :id", id=deadly) == [
        (TooManyTakeovers.code,)
    ]


@pytest.mark.slow
async def test_a_shipped_order_that_kills_its_workers_waits_and_is_never_undone(
    saga: World, forkserver: Forkserver, unique: str
) -> None:
    stock_up(saga)
    orders = [order_of("good", f"{unique}-{i}") for i in range(6)]
    deadly, good = orders[2]["id"], [order["id"] for i, order in enumerate(orders) if i != 2]
    intake.submit(orders)
    waits = (
        "SELECT 1 FROM customer_order "
        "WHERE outcome IS NULL AND coalesce(not_before < now() + interval '30 s', true) LIMIT 1"
    )
    consume(saga, forkserver, (deadly, NOTIFYING), batch_size=8, until_none=waits)
    row = saga.order(deadly)
    assert (row.outcome, row.lone_deaths, row.failure) == (None, 2, None)
    assert saga.shipments(deadly) == 1

    saga.sql(
        "UPDATE customer_order SET not_before = now() WHERE id = :id AND lease_id IS NOT NULL", id=deadly
    )
    consume(saga, forkserver, (deadly, NOTIFYING), batch_size=8, until_none=waits)
    again = saga.order(deadly)
    assert (again.outcome, again.lone_deaths, again.failure) == (None, 3, None)
    assert saga.sql(
        "SELECT not_before > now() + interval '3 min' FROM customer_order WHERE id = :id", id=deadly
    ) == [(True,)], "it grows"
    assert saga.money(deadly) == (PRICE, 0), "it is shipped: no money goes back"

    saga.sql("UPDATE customer_order SET not_before = now() WHERE id = :id", id=deadly)

    async def ended() -> bool:
        return bool(saga.order(deadly).outcome)

    forkserver.consumer(600, batch_size=8, env=QUICK)
    await until(ended, 40, "whoever is not killed by it to end it")
    assert saga.order(deadly).outcome == Outcome.COMPLETED
    assert {saga.charges(order_id) for order_id in [deadly, *good]} == {1}
    assert {saga.shipments(order_id) for order_id in [deadly, *good]} == {1}
    assert {end.outcome for end in report.read(good).values()} == {Outcome.COMPLETED}
    assert saga.stock(PRODUCT) == (STOCK - len(orders), 0)
    saga.assert_books_balance()
