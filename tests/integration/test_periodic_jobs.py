"""Periodic jobs: whose turn it is, and that a running consumer does them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName, FlowRunFilterStartTime

import flows.jobs
from flows.housekeeping import housekeeping
from flows.jobs import JOBS, Job, run_due_jobs
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from saga.database import transaction
from shop.orders.outcomes import Outcome
from shop.runtime import turns
from shop.settings import settings
from tests.integration.test_manual_review import behave
from tests.integration.world import World, an_order
from tests.waiting import until

__all__ = ["behave"]

PRICE = Decimal("999.99")
NAMES = [job.name for job in JOBS]


@asynccontextmanager
async def consumer() -> AsyncIterator[None]:
    """While it lasts, a consumer runs in this process."""
    running = asyncio.create_task(process_pending_orders(consumer_seconds=300))
    try:
        yield
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def overdue(saga: World, what: str) -> None:
    """As if this time had passed."""
    saga.sql(f"UPDATE job_turn SET next_at = next_at - interval '{what}'")


async def test_one_process_has_the_turn(saga: World) -> None:
    taken = await asyncio.gather(*(turns.take(NAMES) for _ in range(8)))
    assert sorted(job for each in taken for job in each) == sorted(NAMES)


async def test_a_dead_process_keeps_its_turn_for_a_lease(saga: World) -> None:
    assert sorted(await turns.take(NAMES)) == sorted(NAMES)  # and dies
    overdue(saga, f"{settings().lease_seconds - 1} s")
    assert await turns.take(NAMES) == []
    overdue(saga, "2 s")
    assert sorted(await turns.take(NAMES)) == sorted(NAMES)


async def test_work_that_comes_during_a_run_is_done_by_another_run(saga: World) -> None:
    job, other = NAMES[:2]
    assert await turns.take([job, other]) == [job, other]
    async with transaction() as tx:
        await turns.make_due(tx, job)
    await turns.end({job: 60, other: 60})
    assert await turns.take([job, other]) == [job]
    await turns.end({job: 60})
    assert await turns.take([job, other]) == []


async def test_a_job_that_fails_stops_no_other(saga: World, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []

    async def fails() -> dict[str, int]:
        raise ConnectionError("not today")

    async def counts() -> dict[str, int]:
        runs.append("second")
        return {"things": 1}

    monkeypatch.setattr(flows.jobs, "JOBS", (Job("first", fails), Job("second", counts)))
    monkeypatch.setattr(flows.jobs, "_NAMES", ("first", "second"))
    done = await run_due_jobs()
    assert (done.counts, list(done.failed)) == ({"things": 1}, ["first"])
    assert (await run_due_jobs()).counts == {}, "both wait for their next turn"
    with pytest.raises(ExceptionGroup) as raised:
        await housekeeping()
    assert [type(error) for error in raised.value.exceptions] == [ConnectionError]
    assert runs == ["second", "second"]


@pytest.mark.usefixtures("prefect_api")
async def test_a_running_consumer_does_them_as_task_runs(saga: World, unique: str) -> None:
    order_id = f"JOBS-{unique}"
    await process_order(an_order(order_id, card="0259", country="AQ"), return_state=True)
    assert saga.order(order_id).outcome == Outcome.NEEDS_ATTENTION
    saga.misbehave(take_refunds=True)
    saga.sql("UPDATE attention SET next_retry_at = now()")
    began = datetime.now(UTC)
    async with consumer():

        async def compensated() -> bool:
            return bool(saga.order(order_id).outcome == Outcome.COMPENSATED)

        await until(compensated, 40, "the refund, by the consumer")

        async def visible() -> bool:
            async with get_client() as client:
                mine = FlowRunFilter(
                    name=FlowRunFilterName(like_="pending orders"),
                    start_time=FlowRunFilterStartTime(after_=began),
                )
                names = [run.name for run in await client.read_task_runs(flow_run_filter=mine, limit=200)]
            return all(
                any(name.startswith(job) for name in names) for job in ("reopen_due_orders", "evaluate")
            )

        await until(visible, 60, "their task runs")
    assert saga.money(order_id) == (PRICE, PRICE)
    assert len(saga.ledger(order_id)[0]["refunds"]) == 1
    saga.assert_books_balance()


async def test_scheduled_housekeeping_skips_what_is_not_due(saga: World, unique: str) -> None:
    order_id = f"DONE-{unique}"
    await process_order(an_order(order_id, card="0259", country="AQ"), return_state=True)
    saga.misbehave(take_refunds=True)
    await housekeeping(only_due=True)
    assert saga.money(order_id) == (PRICE, 0), "its pause is not over"
    saga.sql("UPDATE attention SET next_retry_at = now()")
    await housekeeping(only_due=True)
    assert saga.money(order_id) == (PRICE, 0), "its turn was a moment ago"
    await housekeeping()
    assert saga.money(order_id) == (PRICE, PRICE)
    saga.assert_books_balance()
