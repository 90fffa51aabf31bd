"""Workers of two versions: one leaves a trip with a step that it does not know to the other,
and logs that."""

from __future__ import annotations

import logging

import pytest

import saga.prefect.batch
import saga.prefect.run
from saga import claims
from saga.database import transaction
from saga.definition import Kind, Saga
from saga.execution import StepExecution
from saga.finish import record_failures
from saga.prefect.batch import BatchRunner
from saga.prefect.instance_run import InstanceRun
from saga.prefect.run import run_saga
from saga.wakeup import Listener
from tests.journalled import begin, end
from tests.saga.scripted import ids, step
from tests.saga.trips import TRIPS, Agency, NoSeat, TripInstance

HOTEL, INSURANCE = "book_hotel", "insure"
OLD = Saga(step(name=HOTEL), step(Kind.PIVOT, name="depart"))
NEW = Saga(step(name=HOTEL), step(name=INSURANCE), step(Kind.PIVOT, name="depart"))


@pytest.fixture(autouse=True)
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """The steps that ran, and for which trips; each is done."""
    ran: list[tuple[str, list[str]]] = []

    async def run_step(execution: StepExecution) -> None:
        ran.append((execution.step.name, ids(execution.instances)))
        await begin(execution.step.name, execution.instances)
        await end(execution.step.name, execution.instances)

    for module in (saga.prefect.run, saga.prefect.batch):
        monkeypatch.setattr(module, "run_step", run_step)
    return ran


async def insured(agency: Agency, *trip_ids: str) -> list[TripInstance]:
    """Trips that a worker of the newer version has begun."""
    trips = await agency.instance(*trip_ids)
    await begin(HOTEL, trips)
    await end(HOTEL, trips)
    await begin(INSURANCE, trips)
    return trips


async def assert_released_to_newer_version(
    agency: Agency, trip_id: str, log: pytest.LogCaptureFixture
) -> None:
    row, entry = await agency.trip(trip_id), await agency.step(trip_id, INSURANCE)
    assert (row.outcome, row.lease_id, row.waits_for, row.takeovers) == (None, None, "unknown_step", 0)
    assert (entry.status, entry.undo_due, entry.undo_status) == ("begun", True, None)
    assert f"instance {trip_id} is left to another worker: its journal has {INSURANCE}" in log.text
    async with transaction() as tx:
        assert (
            await claims.claim(tx, TRIPS, await agency.lease(), most=10, ids=[trip_id], known=OLD.names) == []
        )
        (trip,) = await claims.claim(tx, TRIPS, await agency.lease(), most=10, ids=[trip_id], known=NEW.names)
    assert trip.done(HOTEL)
    assert (await agency.trip(trip_id)).waits_for is None


@pytest.mark.parametrize("failed", [False, True], ids=["going forward", "being undone"])
async def test_a_run_of_one_trip_leaves_it(
    agency: Agency, caplog: pytest.LogCaptureFixture, failed: bool
) -> None:
    (trip,) = await insured(agency, "A")
    if failed:
        trip.fail("depart", NoSeat())
        await record_failures([trip])
    with caplog.at_level(logging.WARNING):
        await run_saga(OLD, trip)
    assert trip.lost
    assert ((await agency.trip("A")).failure is not None) == failed
    await assert_released_to_newer_version(agency, "A", caplog)


async def test_a_run_of_one_trip_does_not_even_claim_it(
    agency: Agency, caplog: pytest.LogCaptureFixture
) -> None:
    await insured(agency, "A")
    await agency.rows("UPDATE trip SET lease_id = NULL")
    with caplog.at_level(logging.WARNING):
        run = InstanceRun(OLD, TRIPS, await agency.lease(), Listener())
        assert await run.claim("A") is None
    await assert_released_to_newer_version(agency, "A", caplog)


@pytest.mark.parametrize("failed", [False, True], ids=["going forward", "being undone"])
async def test_a_batch_leaves_it_and_completes_the_others(
    agency: Agency, caplog: pytest.LogCaptureFixture, ran: list[tuple[str, list[str]]], failed: bool
) -> None:
    trips = [*await insured(agency, "A", "B"), *await agency.instance("C", "D")]
    if failed:
        for trip in trips[:2]:
            trip.fail("depart", NoSeat())
        await record_failures(trips[:2])
    runner = BatchRunner(OLD)
    with caplog.at_level(logging.WARNING):
        runner.start(trips)
        await runner.finish_up()
    runner.check()
    assert ran == [(HOTEL, ["C", "D"]), ("depart", ["C", "D"])]
    assert {(await agency.trip(trip_id)).outcome for trip_id in "CD"} == {"completed"}
    for trip_id in "AB":
        await assert_released_to_newer_version(agency, trip_id, caplog)
