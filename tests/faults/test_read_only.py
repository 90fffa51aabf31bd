"""The primary is read-only for a while, as a demoted one is during a failover:
no order is compensated because of it, and no request gets a 500."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest

from deployments.environment import environment
from deployments.local.postgres import EmbeddedPostgres
from shop.orders import intake
from tests.faults.proxy import cut
from tests.faults.test_database import wait_until_ended, wait_until_mails_sent, wait_until_more_ended
from tests.faults.witness import Orders, all_ended, assert_mails, assert_right, mixed
from tests.integration.web import KEY, served
from tests.integration.world import World
from tests.waiting import TIMEOUT_FACTOR
from tests.worker_forkserver.forkserver import Forkserver, Process

# Takeovers because of the database do not count: were they counted, the third time would undo orders.
QUICK = {"LEASE_SECONDS": "2", "POLL_SECONDS": "0.2", "MAX_TAKEOVERS": "2"}
_UNAVAILABLE = "the database is unavailable"


def alter(server: EmbeddedPostgres, command: str) -> None:
    """Changes a setting of the whole server, for connections that are open as well."""
    url = server.url("postgres")
    with psycopg.connect(url, autocommit=True, options="-c default_transaction_read_only=off") as connection:
        connection.execute(f"ALTER SYSTEM {command}".encode())
        connection.execute("SELECT pg_reload_conf()")


def is_read_only(world: World) -> bool:
    return bool(world.sql("SHOW default_transaction_read_only")[0][0] == "on")


@contextmanager
def read_only(server: EmbeddedPostgres, world: World) -> Iterator[None]:
    """While the block runs, writes fail; connections stay open."""
    alter(server, "SET default_transaction_read_only = on")
    try:
        wait_until(lambda: is_read_only(world), 10, "the server to be read-only")
        yield
    finally:
        alter(server, "RESET default_transaction_read_only")
        wait_until(lambda: not is_read_only(world), 10, "the server to take writes")


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + TIMEOUT_FACTOR * seconds
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)


def has_logged_unavailable(process: Process) -> bool:
    return _UNAVAILABLE in process.log.read_text()


class Sender:
    """Sends orders over HTTP, each again and again until it is taken,
    as a client does that reads the answers; counts the answers."""

    def __init__(self, client: httpx.Client, orders: Orders) -> None:
        self._client, self._orders = client, orders
        self.answers: Counter[int] = Counter()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._stop = threading.Event()

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def _send(self) -> None:
        for order in self._orders.values():
            while not self._stop.is_set():
                answer = self._client.post("/orders", json=order)
                self.answers[answer.status_code] += 1
                if answer.status_code == 202:
                    break


@pytest.mark.parametrize(
    "cutting",
    [
        pytest.param(False, id="connections-stay"),
        pytest.param(True, id="connections-are-cut", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
async def test_a_read_only_primary_undoes_no_order(
    frail: World,
    frail_postgres: EmbeddedPostgres,
    forkserver: Forkserver,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
    cutting: bool,
) -> None:
    monkeypatch.setattr("deployments.web.orders.DATABASE_SECONDS", 0.3)
    database = urlsplit(frail.database_url).path.lstrip("/")
    orders = mixed(f"{unique}-lane", 60, flaky=False)
    intake.submit(list(orders.values()))
    consumers = [forkserver.consumer(300, batch_size=8, env=QUICK) for _ in range(2)]
    runs: list[Process] = []
    await wait_until_more_ended(frail, 1)
    with environment({"ORDERS_API_KEY": KEY}), served() as client:
        for outage in range(3):
            sent = mixed(f"{unique}-sent-{outage}", 6, flaky=False)
            own = mixed(f"{unique}-own-{outage}", 2, flaky=False)
            orders |= {**sent, **own}
            with Sender(client, sent) as sender:
                with read_only(frail_postgres, frail):
                    if cutting:
                        cut(frail_postgres.url("postgres"), database)
                    begun = [forkserver.order(order, env=QUICK) for order in own.values()]
                    runs += begun
                    for run in (*begun, *consumers):
                        run.wait_until(
                            lambda run=run: has_logged_unavailable(run),  # type: ignore[misc]
                            20,
                            "it to meet the read-only database",
                        )
                    assert client.get("/ready").status_code == 503
                    answered = sender.answers[503]
                    await asyncio.to_thread(
                        wait_until,
                        lambda before=answered: sender.answers[503] > before,
                        20,
                        "a request to be refused",
                    )
                    await expire_leases(frail)
                await asyncio.to_thread(wait_until, lambda: sender.done, 30, "the requests to be taken")
            assert set(sender.answers) == {202, 503}
        ready = client.get("/ready")
    await wait_until_ended(frail, orders)
    assert ready.status_code == 200
    assert {run.wait(30) for run in runs} <= {"Completed", "Compensated", "Out of stock"}
    assert any(consumer.running() for consumer in consumers)
    assert {consumer.code for consumer in consumers} <= {None, 0}, "one that is not needed may end"
    await wait_until_mails_sent(frail)
    assert all_ended(frail, orders)
    assert_right(frail, orders)
    assert_mails(frail, orders)


async def expire_leases(world: World) -> None:
    def over() -> bool:
        return not world.sql("SELECT 1 FROM lease WHERE until > clock_timestamp()")

    await asyncio.to_thread(wait_until, over, 20, "all leases to run out")
