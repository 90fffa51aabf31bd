"""PgBouncer between the shop and its PostgreSQL: `make check` reports it, and no order is compensated
because of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psycopg
import pytest

from deployments.check.parts import Finding, Known, State, check_part, database
from deployments.check.servers import Pooler, recognise_pooler
from deployments.environment import environment
from deployments.local.postgres import EmbeddedPostgres
from shop.orders import intake
from shop.settings import settings
from tests.conftest import HOME
from tests.faults.pgbouncer import Mode, pgbouncer
from tests.faults.test_database import QUICK, wait_until_ended, wait_until_mails_sent
from tests.faults.test_read_only import read_only
from tests.faults.witness import all_ended, assert_mails, assert_right, mixed
from tests.integration.world import World
from tests.worker_forkserver.forkserver import Forkserver


@pytest.fixture
def behind(frail: World) -> Iterator[str]:
    with pgbouncer(frail.database_url, "transaction", pool_size=8) as url:
        yield url


async def test_orders_reach_their_right_outcomes_behind_a_pooler_in_transaction_mode(
    frail: World, behind: str, forkserver: Forkserver, unique: str
) -> None:
    """Statements that were prepared by name are another client's there."""
    orders = mixed(unique, 60, flaky=False)
    env = {**QUICK, "DATABASE_URL": behind}
    *waiting, a, b, c, d = orders.values()
    with environment({"DATABASE_URL": behind}):
        intake.submit(waiting)
    consumers = [forkserver.consumer(300, batch_size=8, env=env) for _ in range(2)]
    runs = [forkserver.order(order, env=env) for order in (a, b, c, d)]
    await wait_until_ended(frail, orders)
    for run in runs:
        run.wait(30)
    assert all(consumer.running() for consumer in consumers)
    await wait_until_mails_sent(frail)
    assert all_ended(frail, orders)
    assert_right(frail, orders)
    assert_mails(frail, orders)
    logged = "\n".join(process.log.read_text() for process in (*consumers, *runs))
    for error in (
        "DuplicatePreparedStatement",
        "InvalidSqlStatementName",
        "StepBroken",
        "failed unexpectedly",
    ):
        assert error not in logged


@pytest.mark.parametrize(
    ("mode", "pool_size", "expected"),
    [
        ("transaction", 20, Pooler.TRANSACTION),
        ("transaction", 1, Pooler.TRANSACTION),
        ("statement", 20, Pooler.TRANSACTION),
        ("session", 20, Pooler.SESSION),
    ],
)
def test_a_pooler_is_detected_by_its_behaviour(
    frail: World, mode: Mode, pool_size: int, expected: Pooler
) -> None:
    with pgbouncer(frail.database_url, mode, pool_size=pool_size) as url:
        assert recognise_pooler(url) is expected
        with psycopg.connect(url, autocommit=True) as other:  # also when it has connections to choose from
            other.execute("SELECT 1")
            assert recognise_pooler(url) is expected
    assert recognise_pooler(frail.database_url) is None


async def finding(url: str) -> Finding:
    with environment({"DATABASE_URL": url}):
        return await check_part("database", database, Known(settings(), {"DATABASE_URL"}.__contains__, None))


def check(url: str) -> subprocess.CompletedProcess[str]:
    with environment({"DATABASE_URL": url}):
        command = [sys.executable, "-m", "deployments.cli", "check"]
        return subprocess.run(command, cwd=HOME, capture_output=True, text=True, check=False, timeout=120)


async def test_make_check_refuses_a_pooler_in_transaction_mode(frail: World, behind: str) -> None:
    found = await finding(behind)
    assert found.state is State.WRONG
    assert "pooler in transaction mode" in found.what
    assert "pool_mode = session" in found.remedy
    result = check(behind)
    assert result.returncode == 1, result.stderr
    assert "✗ misconfigured" in next(
        line for line in result.stdout.splitlines() if line.strip().startswith("database")
    )


async def test_make_check_takes_one_in_session_mode(frail: World) -> None:
    with pgbouncer(frail.database_url, "session") as url:
        found = await finding(url)
    assert found.state is State.REAL, found
    assert "through a pooler in session mode" in found.what


async def test_make_check_names_a_database_that_takes_no_writes(
    frail: World, frail_postgres: EmbeddedPostgres
) -> None:
    assert (await finding(frail.database_url)).state is State.REAL
    with read_only(frail_postgres, frail):
        found = await finding(frail.database_url)
    assert found.state is State.WRONG
    assert "read-only" in found.what
