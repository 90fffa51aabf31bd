"""The inventory service as a program: what it takes and refuses,
two of it on one database, and orders whose service is killed."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from deployments.local.postgres import EmbeddedPostgres
from deployments.local.programs import Served
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from saga import failpoints
from shop.inventory.errors import InventoryMisconfigured
from shop.inventory.service.client import ServiceInventory
from shop.inventory.service.connections import close_inventories
from shop.inventory.service.contract import State
from shop.orders import intake, report
from shop.orders.outcomes import Outcome
from shop.settings import settings
from tests.conftest import HOME, own_port
from tests.integration.world import World, an_order
from tests.waiting import until

TOKEN = "a-token-for-tests"
PRICE = Decimal("999.99")
_numbers = itertools.count(1)


class Service(Served):
    """As `order-saga inventory-service --prepare` starts it."""

    name, program = "inventory service", ("deployments.cli", "inventory-service")
    file, usual_port = "inventory", 8440

    def kill(self) -> None:
        assert self.pid is not None
        os.kill(self.pid, signal.SIGKILL)

    def stock(self, database_url: str, product: str) -> tuple[int, int]:
        """(on hand, reserved), past the service."""
        with psycopg.connect(database_url) as connection:
            row = connection.execute(
                "SELECT on_hand, reserved FROM product WHERE id = %s", [product]
            ).fetchone()
        assert row is not None
        return row[0], row[1]


Start = Callable[[str], Service]


@pytest.fixture
def stock_database(postgres: EmbeddedPostgres) -> Iterator[str]:
    """Empty: no tables, no products."""
    name = f"stock_process_{next(_numbers)}"
    postgres.create_database(name)
    yield postgres.url(name)
    postgres.drop_database(name)


@pytest.fixture
def start(stock_database: str, tmp_path: Path) -> Iterator[Start]:
    running: list[Service] = []

    def start(name: str) -> Service:
        folder = tmp_path / name
        own_port(folder)
        options = ["--prepare", "--database-url", stock_database]
        where = {"home": HOME, "folder": folder, "logs": folder, "pids": folder}
        service = Service(*options, environment={"INVENTORY_SERVICE_TOKEN": TOKEN}, **where)
        running.append(service)
        service.start()
        return service

    yield start
    for service in running:
        service.stop()


def client(service: Service, token: str | None = TOKEN) -> ServiceInventory:
    return ServiceInventory(service.url, token, timeout_seconds=10, concurrency=4)


async def test_two_of_them_serve_one_database(start: Start, stock_database: str) -> None:
    one, other = start("one"), start("other")
    ends = await asyncio.gather(
        *(
            client(service).reserve(f"O{i}", {"LAST-ONE": 1}, seconds=600)
            for i, service in enumerate([one, other] * 4)
        ),
        return_exceptions=True,
    )
    assert sum(not isinstance(end, BaseException) for end in ends) == 1
    assert one.stock(stock_database, "LAST-ONE") == (1, 1)
    (winner,) = [i for i, end in enumerate(ends) if not isinstance(end, BaseException)]
    found = await client(one).commit(f"O{winner}"), await client(other).commit(f"O{winner}")
    assert [each.state for each in found] == [State.SHIPPED] * 2
    assert one.stock(stock_database, "LAST-ONE") == (0, 0)


@pytest.mark.parametrize("pieces", [True, "1", 1.0, 0])
async def test_pieces_are_whole_numbers(start: Start, stock_database: str, pieces: object) -> None:
    service = start("one")
    body = {"order_id": "O-1", "items": {"LAST-ONE": pieces}, "seconds": 600}
    answer = httpx.post(
        f"{service.url}/v1/reservations", json=body, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=10
    )
    assert answer.status_code == 422, answer.text
    assert service.stock(stock_database, "LAST-ONE") == (1, 0)


async def test_it_asks_for_its_token(start: Start) -> None:
    service = start("one")
    for wrong in (None, "another"):
        with pytest.raises(InventoryMisconfigured, match="INVENTORY_SERVICE_TOKEN"):
            await client(service, wrong).get("O-1")
    assert await client(service).get("O-1") is None


async def test_it_stops_on_request(start: Start) -> None:
    service = start("one")
    assert service.pid is not None
    os.kill(service.pid, signal.SIGTERM)

    async def over() -> bool:
        return not service.running()

    await until(over, 10, "it to stop")


async def test_it_records_in_its_own_database_that_it_is_alive(start: Start, stock_database: str) -> None:
    """And not in the one that DATABASE_URL names, which may be another shop's, or none."""
    service = start("one")

    def kinds() -> list[tuple[str, bool]]:
        with psycopg.connect(stock_database.replace("+psycopg", "")) as connection:
            return connection.execute("SELECT kind, ended_at IS NULL FROM worker_process").fetchall()

    async def alive() -> bool:
        return kinds() == [("inventory service", True)]

    await until(alive, 20, "it to say that it lives")
    assert service.pid is not None
    os.kill(service.pid, signal.SIGTERM)

    async def over() -> bool:
        return not service.running()

    await until(over, 10, "it to stop")
    assert kinds() == [("inventory service", False)]


@pytest.mark.parametrize(
    ("options", "environment", "says"),
    [
        (["--host", "0.0.0.0"], {}, "set INVENTORY_SERVICE_TOKEN"),
        (["--port", "99999"], {}, "cannot listen on 127.0.0.1:99999"),
        (["--port", "http"], {}, 'unable to convert "http" into int'),
    ],
    ids=["open to all", "no such port", "no port"],
)
def test_it_prints_in_a_line_why_it_does_not_start(
    options: list[str], environment: dict[str, str], says: str
) -> None:
    command = [
        sys.executable,
        "-m",
        "deployments.cli",
        "inventory-service",
        "--database-url",
        "postgresql://nobody@127.0.0.1:1/x",
        *options,
    ]
    plain = {name: value for name, value in os.environ.items() if name != "INVENTORY_SERVICE_TOKEN"}
    ended = subprocess.run(
        command, cwd=HOME, env=plain | environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode != 0
    assert says in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


# -- orders whose service is killed


@pytest.fixture
async def served(saga: World, start: Start, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """The shop's stock is at a service that is a process of its own."""
    service = start("stock")
    wanted = {
        "INVENTORY_SERVICE_URL": service.url,
        "INVENTORY_SERVICE_TOKEN": TOKEN,
        "INVENTORY_BREAKER_SECONDS": "0.2",
    }
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield service
    failpoints.watch(None)
    await close_inventories()


async def own_runs(orders: list[dict[str, Any]]) -> None:
    intake.submit(orders)
    for order in orders:
        await process_order(order, return_state=True)


async def pending(orders: list[dict[str, Any]]) -> None:
    intake.submit(orders)
    await process_pending_orders(consumer_seconds=0)


@pytest.mark.parametrize("lane", [pytest.param(own_runs, marks=pytest.mark.slow), pending])
@pytest.mark.parametrize("moment", [pytest.param("before", marks=pytest.mark.slow), "after"])
@pytest.mark.parametrize("what", ["reserving", "committing"])
async def test_a_service_that_is_killed_and_started_again(
    saga: World, served: Service, stock_database: str, unique: str, lane: Any, moment: str, what: str
) -> None:
    """As by a supervisor. Orders wait for it, paid ones too;
    what it did before it died is found, and stock moves once."""
    ids = [f"{unique}-{i}" for i in range(3)]
    supervisor = threading.Thread(target=served.start)
    killed: list[str] = []

    def watcher(point: str) -> None:
        if point == f"{moment} {what} at the inventory service" and not killed:
            killed.append(point)
            served.kill()
            supervisor.start()

    failpoints.watch(watcher)
    await lane([an_order(order_id) for order_id in ids])
    assert killed
    await asyncio.to_thread(supervisor.join)

    async def ended() -> bool:
        saga.sql("UPDATE customer_order SET not_before = NULL")
        await process_pending_orders(consumer_seconds=0)
        return all(end.outcome is not None for end in report.read(ids).values())

    await until(ended, 60, "all orders to end")
    assert {end.outcome for end in report.read(ids).values()} == {Outcome.COMPLETED}
    assert {saga.money(order_id) for order_id in ids} == {(PRICE, Decimal(0))}
    assert {saga.charges(order_id) for order_id in ids} == {1}
    assert served.stock(stock_database, "PROD-001") == (97, 0)
    assert {saga.shipments(order_id) for order_id in ids} == {1}
    saga.assert_books_balance()
