"""The database becomes unavailable in various ways while both lanes work:
all orders reach their one outcome, and the books balance."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deployments.local.postgres import EmbeddedPostgres
from shop.orders import intake
from tests.faults.proxy import Fate, Proxy, cut
from tests.faults.witness import Orders, all_ended, assert_mails, assert_right, mixed
from tests.integration.world import World
from tests.waiting import until
from tests.worker_forkserver.forkserver import Forkserver, Process

QUICK = {"LEASE_SECONDS": "2", "POLL_SECONDS": "0.2"}


def work_in_both_lanes(
    forkserver: Forkserver, orders: Orders, env: dict[str, str]
) -> tuple[list[Process], list[Process]]:
    """Two consumers on what is submitted, and runs of their own for the last orders, which are not."""
    *waiting, a, b, c, d = orders.values()
    intake.submit(waiting)
    consumers = [forkserver.consumer(300, batch_size=8, env=env) for _ in range(2)]
    return consumers, [forkserver.order(order, env=env) for order in (a, b, c, d)]


async def wait_until_ended(world: World, orders: Orders, seconds: float = 60) -> None:
    async def ended() -> bool:
        return all_ended(world, orders)

    await until(ended, seconds, "all orders to end")


async def wait_until_more_ended(world: World, more: int) -> None:
    """Waits until this many more orders have ended: processing continues by itself."""
    before = ended_now(world)

    async def some() -> bool:
        return ended_now(world) >= before + more

    await until(some, 40, "work to go on")


def ended_now(world: World) -> int:
    return int(world.sql("SELECT count(*) FROM customer_order WHERE outcome IS NOT NULL")[0][0])


def make_mails_due(world: World) -> None:
    """Messages that were being sent when the database failed are due again after 30 s: skips that time."""
    world.sql("UPDATE outbox SET next_attempt_at = now() WHERE sent_at IS NULL")


async def wait_until_mails_sent(world: World) -> None:
    async def sent() -> bool:
        make_mails_due(world)
        return not world.sql("SELECT 1 FROM outbox WHERE sent_at IS NULL")

    await until(sent, 30, "all mails to be sent")


@pytest.mark.slow
async def test_restarts(
    frail: World, frail_postgres: EmbeddedPostgres, forkserver: Forkserver, unique: str
) -> None:
    """Smart waits for the workers to leave, in vain, and is killed;
    fast ends their connections; immediate is a crash."""
    first = mixed(unique, 90, flaky=False)
    more = {mode: mixed(f"{unique}-{mode}", 30, flaky=False) for mode in ("smart", "fast", "immediate")}
    orders = first.copy()
    consumers, own_runs = work_in_both_lanes(forkserver, first, QUICK)
    await wait_until_more_ended(frail, 1)
    for mode, fresh in more.items():
        await asyncio.to_thread(frail_postgres.stop, mode, 2 if mode == "smart" else 30)
        await asyncio.to_thread(frail_postgres.start)
        intake.submit(list(fresh.values()))
        orders |= fresh
        await wait_until_more_ended(frail, 8)
    await wait_until_ended(frail, orders)
    for run in own_runs:
        run.wait(30)
    assert all(consumer.running() for consumer in consumers)
    await wait_until_mails_sent(frail)
    assert_right(frail, orders)
    assert_mails(frail, orders)


async def test_connections_are_cut_again_and_again(
    frail: World, frail_postgres: EmbeddedPostgres, forkserver: Forkserver, unique: str
) -> None:
    orders = mixed(unique, 120, flaky=False)
    database = urlsplit(frail.database_url).path.lstrip("/")
    consumers, own_runs = work_in_both_lanes(forkserver, orders, QUICK)
    await wait_until_more_ended(frail, 1)
    cuts = 0
    while cuts < 6 and not all_ended(frail, orders):
        cuts += cut(frail_postgres.url("postgres"), database) > 1
        await asyncio.sleep(0.3)
    assert cuts > 3, "there was something to cut"
    await wait_until_ended(frail, orders)
    for run in own_runs:
        run.wait(30)
    assert all(consumer.running() for consumer in consumers)
    await wait_until_mails_sent(frail)
    assert_right(frail, orders)
    assert_mails(frail, orders)


@pytest.fixture
def proxy(frail: World, world_dir: Path, unique: str) -> Iterator[Proxy]:
    folder = world_dir / f"proxy-{unique}"
    folder.mkdir()
    with Proxy(frail.database_url, folder).running() as proxy:
        yield proxy


@pytest.mark.slow
async def test_commits_are_refused_or_their_answers_lost(
    frail: World, proxy: Proxy, forkserver: Forkserver, unique: str
) -> None:
    """One commit in eight: of claims, intents, effects, results, outcomes, renewals, and of submitting."""
    orders = mixed(unique, 60, flaky=False)
    proxy.share = 0.12
    consumers, own_runs = work_in_both_lanes(forkserver, orders, {**QUICK, "DATABASE_URL": proxy.url})
    await wait_until_ended(frail, orders, 90)
    for run in own_runs:
        run.wait(30)
    assert all(consumer.running() for consumer in consumers)
    proxy.share = 0
    await wait_until_mails_sent(frail)
    assert min(proxy.fates[fate] for fate in Fate) > 2, proxy.fates
    assert_right(frail, orders)
    assert_mails(frail, orders)
