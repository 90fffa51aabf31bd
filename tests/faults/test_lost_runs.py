"""Runs of `process-order` that died before they stored their order,
which then is in their parameters only."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import text

import flows.lost_runs
from deployments.local.prefect_server import PrefectServer
from deployments.local.programs import Worker
from flows.lost_runs import search_lost_runs
from saga.database import sync_engine
from shop.orders import intake
from shop.settings import Settings
from tests.faults.runs import run, set_state, start
from tests.faults.test_kill_bar import prompt_worker, runs_of
from tests.faults.witness import all_ended, assert_right, order_of
from tests.integration.world import World
from tests.waiting import until

__all__ = ["prompt_worker"]


@pytest.fixture(autouse=True)
def only_later_runs(deployed: World) -> None:
    deployed.sql("UPDATE lost_run_search SET since = now(), searched_until = now()")


@pytest.fixture
def in_deployment(frail_prefect: PrefectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is a run of `housekeeping`, and what stands still does so since long ago."""
    found = (
        httpx.get(
            f"{frail_prefect.api_url}/deployments/name/housekeeping/housekeeping", auth=frail_prefect.auth
        )
        .raise_for_status()
        .json()
    )
    monkeypatch.setattr(flows.lost_runs, "deployment", SimpleNamespace(id=found["id"]))
    monkeypatch.setattr(flows.lost_runs, "STUCK_SECONDS", 0)


def stored(world: World) -> set[str]:
    return {row.id for row in world.sql("SELECT id FROM customer_order")}


# A dead process may have sent its commit along with what waits for the lock.
_END_THOSE_WHO_WAIT = text(
    "SELECT pg_terminate_backend(pid) FROM pg_locks "
    "WHERE NOT granted AND relation = CAST('customer_order' AS regclass)"
)


def kill_before_storing(world: World, worker: Worker, run_ids: set[str], seconds: float) -> None:
    """Kills the process of each run as soon as there is one. Meanwhile no order can be stored."""
    killed: set[str] = set()
    end = time.monotonic() + seconds
    with sync_engine(Settings(DATABASE_URL=world.database_url).database_url).begin() as connection:
        connection.execute(text("LOCK TABLE customer_order IN EXCLUSIVE MODE"))
        while killed < run_ids and time.monotonic() < end:
            for process in runs_of(worker):
                try:
                    its_run = process.environ()["PREFECT__FLOW_RUN_ID"]
                    if its_run in run_ids - killed:
                        process.kill()
                        killed.add(its_run)
                except (psutil.Error, KeyError):
                    continue
            time.sleep(0.02)
        connection.execute(_END_THOSE_WHO_WAIT)
    assert killed == run_ids, f"only {len(killed)} of {len(run_ids)} runs were killed"


@pytest.mark.slow
async def test_twelve_kills_before_storing(
    deployed: World, frail_prefect: PrefectServer, prompt_worker: Worker, unique: str
) -> None:
    """All twelve orders reach their outcome by a later recovery,
    although the first recovery is killed too."""
    orders = {order["id"]: order for order in (order_of("good", f"{unique}-{i}") for i in range(12))}
    run_ids = {start(frail_prefect, "process-order", {"order": order}) for order in orders.values()}
    await asyncio.to_thread(kill_before_storing, deployed, prompt_worker, run_ids, 240)
    assert not stored(deployed)

    async def crashed() -> bool:
        return {run(frail_prefect, run_id)["state"]["type"] for run_id in run_ids} == {"CRASHED"}

    await until(crashed, 30, "the runs to be shown as crashed")
    first = start(frail_prefect, "housekeeping")
    await asyncio.to_thread(kill_before_storing, deployed, prompt_worker, {first}, 60)
    start(frail_prefect, "housekeeping")

    async def ended() -> bool:
        return stored(deployed) == set(orders) and all_ended(deployed)

    await until(ended, 60, "all twelve orders to end")
    assert_right(deployed, orders)


@pytest.mark.parametrize(
    ("state", "more"),
    [
        (
            "FAILED",
            {
                "message": (
                    "Flow run encountered an exception: cannot execute INSERT in a read-only transaction"
                )
            },
        ),
        ("CRASHED", {}),
        ("PENDING", {}),
        ("RUNNING", {}),
        ("PAUSED", {"name": "Suspended"}),
        ("CANCELLED", {"message": "Deployment concurrency limit reached."}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.short_form("CRASHED")
async def test_whatever_became_of_the_run_its_order_is_stored(
    deployed: World,
    frail_prefect: PrefectServer,
    in_deployment: None,
    unique: str,
    state: str,
    more: dict[str, Any],
) -> None:
    """No process of it is there any more: its machine died,
    the database was read-only, or Prefect itself cancelled it."""
    order = order_of("good", unique)
    run_id = make(frail_prefect, order)
    set_state(frail_prefect, run_id, state, **more)
    assert await search_lost_runs() == [order["id"]]
    assert stored(deployed) == {order["id"]}
    assert await search_lost_runs() == [], "once"


async def test_a_cancelled_run_is_not_stored(
    deployed: World, frail_prefect: PrefectServer, in_deployment: None, unique: str
) -> None:
    run_id = make(frail_prefect, order_of("good", unique))
    set_state(frail_prefect, run_id, "CANCELLING")
    assert await search_lost_runs() == []
    set_state(frail_prefect, run_id, "CANCELLED")
    assert await search_lost_runs() == []
    assert not stored(deployed)


@pytest.mark.slow
async def test_many_runs_and_among_them_orders_that_cannot_be_stored(
    deployed: World,
    frail_prefect: PrefectServer,
    in_deployment: None,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Page by page; one without a usable id,
    and one under the id of another order, do not prevent others from being stored."""
    monkeypatch.setattr(flows.lost_runs, "_PAGE", 2)
    known = order_of("good", f"{unique}-known")
    intake.submit([known])
    good = [order_of("good", f"{unique}-{i}") for i in range(5)]
    for order in [
        good[0],
        {"customer_id": "no id"},
        *good[1:3],
        {**known, "total_amount": "1.00"},
        *good[3:],
        good[4],
    ]:
        set_state(frail_prefect, make(frail_prefect, order), "FAILED")
    assert sorted(await search_lost_runs()) == [order["id"] for order in good]
    assert stored(deployed) == {known["id"], *(order["id"] for order in good)}
    assert await search_lost_runs() == []


@pytest.mark.slow
async def test_runs_of_before_this_database_are_not_its(
    deployed: World, frail_prefect: PrefectServer, in_deployment: None, unique: str
) -> None:
    """A fresh database on an old Prefect server:
    those orders were another database's, and may have been charged there."""
    crashed, pending = (make(frail_prefect, order_of("good", f"{unique}-{i}")) for i in range(2))
    set_state(frail_prefect, crashed, "CRASHED")
    deployed.sql("UPDATE lost_run_search SET since = now(), searched_until = now()")
    assert await search_lost_runs() == []
    assert run(frail_prefect, pending)["state"]["type"] == "PENDING"
    assert not stored(deployed)


@pytest.mark.slow
async def test_what_ended_between_searches_is_found(
    deployed: World, frail_prefect: PrefectServer, in_deployment: None, unique: str
) -> None:
    """However long ago the last search was."""
    deployed.sql(
        "UPDATE lost_run_search SET since = now() - interval '9 days', "
        "searched_until = now() - interval '9 days'"
    )
    order = order_of("good", unique)
    set_state(frail_prefect, make(frail_prefect, order), "CRASHED")
    assert await search_lost_runs() == [order["id"]]
    (row,) = deployed.sql(
        "SELECT searched_until > now() - interval '1 minute' AS advanced FROM lost_run_search"
    )
    assert row.advanced


def make(server: PrefectServer, order: dict[str, Any]) -> str:
    """A run that no worker takes up."""
    return start(server, "process-order", {"order": order}, {"type": "PENDING", "name": "Pending"})
