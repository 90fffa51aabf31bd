"""The drill of docs/operations/backup.md: the database is lost and restored to an earlier time, and the shop
sends its orders again. Money is checked against the gateway's own ledger, which is not restored."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from deployments.cli import order_saga
from deployments.environment import environment
from deployments.errors import StackError
from deployments.local.postgres import EmbeddedPostgres
from deployments.local.prefect_server import PrefectServer
from deployments.local.programs import Sandbox
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from saga.cancelling import Asked
from saga.database import close_engine, sync_engine
from shop.inventory.catalogue import load_sample_catalogue
from shop.orders import intake, report
from shop.orders.outcomes import Outcome
from shop.payments.gateways import close_gateway, gateway
from shop.reconciliation.books import read_books
from shop.reconciliation.discrepancy import Kind
from shop.reconciliation.reconcile import reconcile
from shop.review.cancel import ask_to_cancel
from shop.review.retry import NewMeans, retry
from shop.runtime.migrate import upgrade
from tests.faults.witness import (
    ENDS,
    PRODUCT,
    STOCK,
    Orders,
    all_ended,
    charged,
    mixed,
    order_of,
    payments,
    refunded,
    stock_up,
)
from tests.integration.world import World
from tests.waiting import TIMEOUT_FACTOR, until
from tests.worker_forkserver.forkserver import Forkserver

QUICK = {"LEASE_SECONDS": "2", "POLL_SECONDS": "0.2"}
GOOD_CARD = "4242"


class Archived:
    """A PostgreSQL with an archive of its WAL, the base backup of it, and the way back."""

    def __init__(self, folder: Path) -> None:
        self.server = EmbeddedPostgres(folder / "postgres")
        self._archive, self._base = folder / "archive", folder / "base"

    def start(self) -> None:
        self.server.start()
        for folder in (self._archive, self._base):
            folder.mkdir(mode=0o700)
            self._give(folder)
        copy = f"test ! -f {self._quoted}/%f && cp %p {self._quoted}/%f"
        self._append({"archive_mode": "on", "archive_command": copy})
        self.server.stop()
        self.server.start()
        self.server.create_database("shop")

    def back_up(self) -> None:
        """`pg_basebackup`, as an operator calls it: the WAL is in the archive."""
        place = ["-h", str(self.server._socket_dir), "-p", "5432", "-U", "postgres"]
        options = ["-D", str(self._base), "-X", "none", "--checkpoint=fast", "--no-password"]
        self.server._run(["pg_basebackup", *place, *options], self._archive, seconds=120)

    def archive_all(self) -> None:
        """What was written until now is in the archive."""
        with psycopg.connect(self.server.url("postgres"), autocommit=True) as connection:
            row = connection.execute(
                "SELECT pg_walfile_name(pg_current_wal_lsn()), pg_switch_wal()"
            ).fetchone()
            assert row is not None
            for _ in range(200 * TIMEOUT_FACTOR):
                if (self._archive / row[0]).exists():
                    return
                connection.execute("SELECT pg_sleep(0.1)")
        raise AssertionError(f"{row[0]} was not archived")

    def lose(self) -> None:
        """The machine is gone, with its disk."""
        self.server.stop("immediate")
        shutil.rmtree(self.server.data_dir)

    def restore(self, to: datetime) -> None:
        """The base backup, and the WAL until that time."""
        self._base.rename(self.server.data_dir)
        self._append(
            {
                "restore_command": f"cp {self._quoted}/%f %p",
                "recovery_target_time": to.isoformat(),
                "recovery_target_action": "promote",
            }
        )
        (signal_file := self.server.data_dir / "recovery.signal").touch()
        self._give(signal_file)
        self.server.start()
        with psycopg.connect(self.server.url("postgres"), autocommit=True) as connection:
            for _ in range(200 * TIMEOUT_FACTOR):
                if connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,):
                    return
                connection.execute("SELECT pg_sleep(0.1)")
        raise AssertionError("the recovery does not end")

    def _give(self, path: Path) -> None:
        """To the server's user."""
        owner = (self.server.data_dir / "PG_VERSION").stat()
        shutil.chown(path, owner.st_uid, owner.st_gid)

    @property
    def _quoted(self) -> str:
        return shlex.quote(str(self._archive))

    def _append(self, values: dict[str, str]) -> None:
        with (self.server.data_dir / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in values.items())


@pytest.fixture
def archived(world_dir: Path, unique: str) -> Iterator[Archived]:
    (folder := world_dir / f"drill-{unique}").mkdir()
    found = Archived(folder)
    try:
        found.start()
        yield found
    finally:
        with suppress(StackError):
            found.server.stop("immediate")


@pytest.fixture
async def shop(
    archived: Archived, sandbox: Sandbox, prefect_api: PrefectServer, tmp_path: Path
) -> AsyncIterator[World]:
    """A stocked shop on that server."""
    upgrade(archived.server.url("shop"))
    world = World(archived.server.url("shop"), sandbox.url, tmp_path)
    given = {
        "DATABASE_URL": world.database_url,
        "VAR_DIR": str(tmp_path),
        "RECONCILIATION_GRACE_SECONDS": "0",
    }
    with environment(given):
        load_sample_catalogue(world.database_url)
        stock_up(world)
        yield world
        world.misbehave(forget_keys=False)
        await disconnect()


async def disconnect() -> None:
    """This process's workers stop."""
    await close_gateway()
    await close_engine()
    for engine in [sync_engine(url) for url in _urls()]:
        engine.dispose()
    sync_engine.cache_clear()


def _urls() -> list[str]:
    from shop.settings import settings

    return [settings().database_url]


async def process(shop: World, orders: Orders) -> None:
    """Until all of them have ended, whoever had them."""

    async def ended() -> bool:
        await process_pending_orders(consumer_seconds=0)
        return all_ended(shop, orders)

    await until(ended, 60, "all orders to end")


def tracking_numbers(shop: World) -> dict[str, str]:
    return {row.tracking_number: row.order_id for row in shop.sql("SELECT * FROM shipment")}


@pytest.mark.parametrize("forgets", [False, True], ids=["gateway that remembers keys", "one that forgets"])
async def test_after_a_restore_no_order_is_charged_twice_or_lost(
    shop: World,
    archived: Archived,
    forkserver: Forkserver,
    unique: str,
    forgets: bool,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # Before the base backup, and between it and the time T of the restore.
    first, second = mixed(f"{unique}-first", 10), mixed(f"{unique}-second", 10)
    returned, paid_late = order_of("good", f"{unique}-returned"), order_of("declined", f"{unique}-late")
    intake.submit(first.values())
    await process(shop, first)
    archived.back_up()
    intake.submit([*second.values(), returned, paid_late])
    await process(shop, {**second, returned["id"]: returned, paid_late["id"]: paid_late})

    # At T some orders wait, and two workers have died in the middle of a payment.
    waiting = mixed(f"{unique}-waiting", 10, flaky=False)
    uncreated, unconfirmed = (order_of("good", f"{unique}-{name}") for name in ("uncreated", "unconfirmed"))
    places = {"create": (uncreated, "before"), "confirm": (unconfirmed, "after")}
    for call, (order, when) in places.items():
        place = f"shop.payments.sandbox.client:SandboxGateway.{call}:{when}"
        assert forkserver.order(order, stop_at=place, stop_by=signal.SIGKILL, env=QUICK).gone(60) == -9
    intake.submit(waiting.values())
    (time_of_restore,) = shop.sql("SELECT clock_timestamp() AS now")[0]

    # After T: those end, others come, and people decide. All of this is lost.
    lost = mixed(f"{unique}-lost", 12)
    own_runs = [order_of("good", f"{unique}-own-{i}") for i in range(2)]
    taken_back, paid_later = order_of("good", f"{unique}-taken"), order_of("declined", f"{unique}-later")
    intake.submit([*lost.values(), taken_back, paid_later])
    for order in own_runs:
        await process_order(order, return_state=True)
    orders = {
        **first,
        **second,
        **waiting,
        **lost,
        **{o["id"]: o for o in (returned, paid_late, uncreated, unconfirmed)},
        **{o["id"]: o for o in (taken_back, paid_later, *own_runs)},
    }
    await process(shop, orders)
    for order in (paid_late, paid_later):
        await retry(order["id"], NewMeans(card_last4=GOOD_CARD), requested_by="ann")
    for order in (returned, taken_back):
        assert await ask_to_cancel(order["id"], reason="does not want it", requested_by="ann") is Asked.ASKED
    await process(shop, orders)
    parcels = tracking_numbers(shop)
    wanted: dict[str, Outcome] = {order_id: ENDS[order_id.split("-")[0]] for order_id in orders}
    wanted |= {returned["id"]: Outcome.COMPENSATED, taken_back["id"]: Outcome.COMPENSATED}
    wanted |= {paid_late["id"]: Outcome.COMPLETED, paid_later["id"]: Outcome.COMPLETED}
    assert {i: end.outcome for i, end in report.read(list(orders)).items()} == wanted
    money = money_of(shop, orders)

    # The database is lost, and restored to T.
    archived.archive_all()
    await disconnect()
    archived.lose()
    archived.restore(time_of_restore)
    ids = {row.id for row in shop.sql("SELECT id FROM customer_order")}
    assert ids == orders.keys() - lost.keys() - {o["id"] for o in (taken_back, paid_later, *own_runs)}
    shop.misbehave(forget_keys=forgets)

    # What the operator does.
    assert await asyncio.to_thread(order_saga, ["restored", time_of_restore.isoformat()]) == 0
    output = capfd.readouterr().out
    charged_and_lost = {i for i in orders.keys() - ids if shop.ledger(i)}
    assert charged_and_lost
    assert all(order_id in output for order_id in charged_and_lost)
    receipts = intake.submit(orders.values())
    assert {receipt.status for receipt in receipts} == {"accepted", "known"}
    await process(shop, orders)

    # What people decided about orders that had ended is found, and decided again.
    since = time_of_restore - timedelta(hours=1)
    found = [each async for each in reconcile(gateway(), since, fix=False) if each.order_id in orders]
    assert {each.order_id: each.kind for each in found} == {
        returned["id"]: Kind.REFUND_UNKNOWN_TO_US,
        paid_late["id"]: Kind.CHARGED_NOT_COMPLETED,
    }, found
    await retry(paid_late["id"], NewMeans(card_last4=GOOD_CARD), requested_by="ann")
    assert await ask_to_cancel(returned["id"], reason="as before", requested_by="ann") is Asked.ASKED
    await process(shop, orders)

    assert {i: end.outcome for i, end in report.read(list(orders)).items()} == wanted
    assert money_of(shop, orders) == money, "not a cent has moved"
    assert [each async for each in reconcile(gateway(), since, fix=False) if each.order_id in orders] == []
    assert_books(shop, orders, wanted)
    assert await asyncio.to_thread(order_saga, ["books"]) == 0
    again = tracking_numbers(shop)
    assert {n: i for n, i in again.items() if n in parcels} == {
        n: i for n, i in parcels.items() if n in again
    }, "no number belongs to two parcels"
    sent = shop.sql("SELECT count(*) AS n, count(sent_at) AS sent FROM outbox")[0]
    assert sent.n == sent.sent > 0


def money_of(shop: World, orders: Orders) -> dict[str, tuple[Any, Any]]:
    """What the gateway's ledger has of each order: charges, and what was refunded."""
    found = payments(shop, orders)
    assert {i: charges for i, ps in found.items() if len(charges := charged(ps)) > 1} == {}
    return {order_id: (charged(each), refunded(each)) for order_id, each in found.items()}


def assert_books(shop: World, orders: Orders, wanted: dict[str, Outcome]) -> None:
    """Our tables agree with the gateway's ledger order by order, and the stock with the parcels."""
    shop.assert_books_balance()
    assert read_books(shop.database_url, None).balanced
    completed = {order_id for order_id, outcome in wanted.items() if outcome is Outcome.COMPLETED}
    left = shop.sql("SELECT order_id FROM shipment WHERE returned_at IS NULL")
    assert {row.order_id for row in left} == completed
    assert shop.stock(PRODUCT) == (STOCK - len(completed), 0)
    assert not shop.sql("SELECT 1 FROM reservation WHERE state = 'held'")
