"""The database is silent: it refuses nothing, ends nothing, and answers nothing.
No process waits for ever, and nothing is decided."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import saga.database
import shop.orders.intake
from deployments.environment import environment
from deployments.local.postgres import EmbeddedPostgres
from flows.order_saga import ORDER_SAGA
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from saga.connections import LimitedAsyncConnection
from saga.database import is_database_error, sync_engine, transaction
from saga.wakeup import FINISHED, listening
from shop.inventory.service.database import DatabaseInventory
from shop.orders import intake
from shop.orders.outcomes import Outcome
from shop.orders.store import ORDERS
from shop.settings import settings
from tests.faults.silence import silent
from tests.faults.witness import PRODUCT, all_ended, assert_right, mixed, order_of
from tests.integration.web import KEY, served
from tests.integration.world import World
from tests.waiting import until
from tests.worker_forkserver.forkserver import Forkserver

_LIMIT_SECONDS = 15
"""Within which the web app has to answer."""


@pytest.fixture
def web(frail: World) -> Iterator[httpx.Client]:
    with (
        environment({"ORDERS_API_KEY": KEY, "PREFECT_API_URL": "http://127.0.0.1:1/api"}),
        served() as client,
    ):
        yield client


@pytest.mark.slow
def test_the_web_app_reports_it_and_accepts_the_same_order_afterwards(
    web: httpx.Client, frail: World, frail_postgres: EmbeddedPostgres, unique: str
) -> None:
    """Some of the connections are open already when the silence begins, others are not."""
    first, second = order_of("good", f"{unique}-1"), order_of("good", f"{unique}-2")
    assert web.post("/orders", json=first).status_code == 202
    with silent(frail_postgres):
        for ask in (
            lambda: web.post("/orders", json=second),
            lambda: web.get(f"/orders/{first['id']}"),
            lambda: web.post("/orders", json=second),
            lambda: web.get("/ready"),
        ):
            asked = time.monotonic()
            answer = ask()
            took = time.monotonic() - asked
            assert answer.status_code == 503
            assert took < _LIMIT_SECONDS
            if answer.request.url.path != "/ready":
                assert answer.headers["retry-after"].isdecimal()
    assert web.post("/orders", json=second).status_code == 202
    assert web.get("/ready").status_code == 200
    assert {row.id for row in frail.sql("SELECT id FROM customer_order")} == {first["id"], second["id"]}


async def test_transactions_end_in_time_and_so_do_cancelled_ones(
    frail: World, frail_postgres: EmbeddedPostgres
) -> None:
    async with transaction() as tx:
        await tx.exec_driver_sql("SELECT 1")
    asked = time.monotonic()
    with silent(frail_postgres):
        for _ in range(2):  # on a connection that was open, and on a new one
            with pytest.raises(Exception) as failed:  # noqa: PT011  (which of them, SQLAlchemy decides)
                async with transaction(seconds=1) as tx:
                    await tx.exec_driver_sql("SELECT 1")
            assert is_database_error(failed.value)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1), transaction() as tx:
                await tx.exec_driver_sql("SELECT 1")
    assert time.monotonic() - asked < _LIMIT_SECONDS
    # A statement that is only slow is cancelled, so that its locks are released.
    with pytest.raises(Exception) as failed:  # noqa: PT011
        async with transaction(seconds=0.5) as tx:
            await tx.exec_driver_sql("LOCK TABLE product; SELECT pg_sleep(600)")
    assert is_database_error(failed.value)
    async with transaction(seconds=10) as tx:
        await tx.exec_driver_sql("LOCK TABLE product")


@pytest.mark.slow
def test_submitting_ends_in_time(
    frail: World, frail_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, unique: str
) -> None:
    order = order_of("good", unique)
    sync_engine(settings().database_url).connect().close()
    monkeypatch.setattr(shop.orders.intake, "TRANSACTION_SECONDS", 1)
    asked = time.monotonic()
    with silent(frail_postgres), pytest.raises(Exception) as failed:  # noqa: PT011
        intake.submit([order])
    assert is_database_error(failed.value)
    assert time.monotonic() - asked < _LIMIT_SECONDS
    assert [receipt.status for receipt in intake.submit([order])] == ["accepted"]


@pytest.mark.slow
async def test_the_inventory_service_s_operations_end_in_time(
    frail: World, frail_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch, unique: str
) -> None:
    """What was asked for is unclear, and asked for again it is done once."""
    monkeypatch.setattr("shop.inventory.service.database._SECONDS", 1)
    inventory, before = DatabaseInventory(frail.database_url), frail.stock(PRODUCT)
    try:
        await inventory.stock()
        asked = time.monotonic()
        with silent(frail_postgres):
            for ask in (
                lambda: inventory.reserve(unique, {PRODUCT: 1}, seconds=60),
                lambda: inventory.get(unique),
            ):
                with pytest.raises(Exception) as failed:  # noqa: PT011
                    await ask()
                assert is_database_error(failed.value)
        assert time.monotonic() - asked < 2 * _LIMIT_SECONDS
        await inventory.reserve(unique, {PRODUCT: 1}, seconds=60)
        assert frail.stock(PRODUCT) == (before[0], before[1] + 1)
    finally:
        await inventory.aclose()


async def test_a_listener_makes_another_connection(
    frail: World, frail_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listener that receives nothing detects a lost connection only by asking."""
    tries, connect = itertools.count(), LimitedAsyncConnection.connect

    async def counted(*arguments: Any, **options: Any) -> Any:
        next(tries)
        return await connect(*arguments, **options)

    async def tried_again() -> bool:
        return int(repr(tries)[6:-1]) > 1

    monkeypatch.setattr(LimitedAsyncConnection, "connect", counted)
    monkeypatch.setattr("saga.wakeup._QUIET_SECONDS", 0.2)
    monkeypatch.setattr("saga.wakeup._ANSWER_SECONDS", 0.5)
    async with listening(ORDERS, FINISHED) as listener:
        assert await listener.wait(10), "it listens"
        with silent(frail_postgres):
            await until(tried_again, 20, "another connection to be tried")
        assert await listener.wait(20), "it listens again"


class Silence:
    """Of the database, from the charge on,
    until the worker has timed out `times` times."""

    def __init__(
        self, world: World, server: EmbeddedPostgres, caplog: pytest.LogCaptureFixture, order_id: str
    ) -> None:
        self._world, self._server, self._caplog, self._order_id = world, server, caplog, order_id

    async def fall(self, times: int) -> None:
        async def charging() -> bool:
            return await asyncio.to_thread(self._world.charges, self._order_id) == 1

        async def noticed() -> bool:
            return (
                sum(
                    "unavailable" in (message := record.getMessage()) and "retrying" in message
                    for record in self._caplog.records
                )
                >= times
            )

        await until(charging, 30, "the charge")
        with silent(self._server):
            await until(noticed, 60, "the worker to notice")


@pytest.mark.parametrize("batch", [False, True], ids=["in a run of its own", "in a batch"])
@pytest.mark.short_form("in a batch")
async def test_an_order_in_the_middle_of_its_payment_waits_and_completes(
    frail: World,
    frail_postgres: EmbeddedPostgres,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    unique: str,
    batch: bool,
) -> None:
    """It is charged, which the journal does not know when the silence begins.
    It is longer than any of the worker's limits."""
    monkeypatch.setattr(saga.database, "TRANSACTION_SECONDS", 2)
    caplog.set_level(logging.WARNING)
    orders = [order_of("good", f"{unique}-{i}", card="0341") for i in range(3 if batch else 1)]
    falling = asyncio.create_task(Silence(frail, frail_postgres, caplog, orders[0]["id"]).fall(4))
    with environment({"LEASE_SECONDS": "4", "PAYMENT_TIMEOUT_SECONDS": "2"}):
        if batch:
            await asyncio.to_thread(intake.submit, orders)
            await process_pending_orders(consumer_seconds=0)
        else:
            await process_order(orders[0])
    await falling

    async def ended() -> bool:
        return all_ended(frail)

    await until(ended, 30, "the orders to end")
    assert_right(
        frail, {order["id"]: order for order in orders}, {order["id"]: Outcome.COMPLETED for order in orders}
    )


@pytest.mark.slow
async def test_silent_for_longer_than_any_step_may_take(
    frail: World, frail_postgres: EmbeddedPostgres, forkserver: Forkserver, unique: str
) -> None:
    """Both lanes, with the limits that they have,
    and a silence of more than two minutes: no order is undone for it."""
    orders = mixed(unique, 60, flaky=False)
    *waiting, a, b = orders.values()
    intake.submit(waiting)
    env = {"LEASE_SECONDS": "4", "POLL_SECONDS": "0.2"}
    consumers = [forkserver.consumer(600, batch_size=8, env=env) for _ in range(2)]
    own_runs = [forkserver.order(order, env=env) for order in (a, b)]

    async def some() -> bool:
        return bool(frail.sql("SELECT 1 FROM order_step WHERE step = 'process_payment'"))

    async def over() -> bool:
        return time.monotonic() - began > longest + 5

    await until(some, 40, "payments")
    longest, began = max(step.time_limit for step in ORDER_SAGA), time.monotonic()
    with silent(frail_postgres):
        await until(over, longest, "the silence to be long enough")

    async def ended() -> bool:
        return all_ended(frail, orders)

    await until(ended, 90, "all orders to end")
    for run in own_runs:
        run.wait(30)
    assert all(consumer.running() for consumer in consumers)
    assert_right(frail, orders)
