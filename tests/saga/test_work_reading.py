"""Steps that change nothing: what they found is journalled with whatever comes next."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest
from sqlalchemy.exc import OperationalError

from saga.database import Tx
from saga.database_action import run_in_database, run_reading
from saga.definition import Saga
from saga.errors import UnexpectedStepError
from saga.execution import StepExecution
from saga.external_action import run_external
from saga.finish import finish
from tests.saga.scripted import DEPART, READ, Ends, Outside, busy, failing_commits, ids, some, statuses
from tests.saga.trips import TRIPS, Agency, Busy, TripInstance


async def read_ok(tx: Tx, trips: Sequence[TripInstance]) -> Ends:
    return {trip.id: {"read": trip.id} for trip in trips}


async def write_ok(tx: Tx, trips: Sequence[TripInstance]) -> Ends:
    return {trip.id: {"wrote": trip.id} for trip in trips}


Runner = Callable[[list[TripInstance]], Awaitable[None]]


async def read_in_database(trips: list[TripInstance]) -> None:
    await run_in_database(StepExecution(READ, trips), read_ok)


async def read_outside(trips: list[TripInstance]) -> None:
    async def act(trip: TripInstance) -> Ends:
        return {"read": trip.id}

    await run_external(StepExecution(READ, trips), act)


@pytest.mark.parametrize("read", [read_in_database, read_outside])
@pytest.mark.parametrize("n", [1, 3])
async def test_what_was_read_is_in_the_journal_with_what_comes_next(
    agency: Agency, read: Runner, n: int
) -> None:
    trips = await some(agency, *"ABC"[:n])
    await read(trips)
    assert all(trip.result("read") == {"read": trip.id} for trip in trips)
    assert [trip.undo_plan() for trip in trips] == [()] * n
    await run_in_database(StepExecution(DEPART, trips), write_ok)
    assert await statuses(agency, "read") == dict.fromkeys("ABC"[:n], "done")
    rows = await agency.rows("SELECT step FROM trip_step WHERE instance_id = 'A' ORDER BY number")
    assert [row.step for row in rows] == ["read", "depart"]


@pytest.mark.parametrize("read", [read_in_database, read_outside])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("outside", [False, True])
async def test_what_was_read_survives_a_failure_of_the_next_step(
    agency: Agency, monkeypatch: pytest.MonkeyPatch, read: Runner, n: int, outside: bool
) -> None:
    """What was read must be known later, though the database was briefly unavailable when the trip
    departed."""
    trips = await some(agency, *"ABC"[:n])
    await read(trips)
    departing = StepExecution(DEPART, trips)
    run: Callable[[], Awaitable[None]] = (
        (lambda: run_external(departing, Outside()))
        if outside
        else (lambda: run_in_database(departing, write_ok))
    )
    with monkeypatch.context() as patch:
        failing_commits(patch, arrives=False)
        with pytest.raises(OperationalError):
            await run()
    await run()
    assert all(trip.done("depart") for trip in trips)
    assert [trip.result("read") for trip in trips] == [{"read": trip.id} for trip in trips]
    assert await statuses(agency, "read") == dict.fromkeys("ABC"[:n], "done")


@pytest.mark.parametrize("arrives", [True, False])
async def test_what_was_read_survives_an_unclear_commit(
    agency: Agency, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    (trip,) = await some(agency, "A")
    await read_outside([trip])
    departing = StepExecution(DEPART, [trip])
    with monkeypatch.context() as patch:
        failing_commits(patch, arrives=arrives)
        with pytest.raises(OperationalError):
            await run_in_database(departing, write_ok)
    await run_in_database(departing, write_ok)
    assert trip.result("read") == {"read": "A"}
    assert (await agency.step("A", "read")).result == {"read": "A"}


async def test_attempts_at_reading_are_counted_too(agency: Agency) -> None:
    (trip,) = await some(agency, "A")
    act, work = Outside(A=[busy(), busy()]), StepExecution(READ, [trip])
    for _ in range(2):
        with pytest.raises(Busy):
            await run_external(work, act)
    await run_external(work, act)
    await run_in_database(StepExecution(DEPART, [trip]), write_ok)
    row = await agency.step("A", "read")
    assert (row.status, row.attempts) == ("done", 3)


async def test_a_reading_that_left_its_batch_does_not_break_the_next_step(agency: Agency) -> None:
    """It failed in the batch, in a way that may pass,
    and succeeded alone: two ends of one step, until they are written."""
    trips = await some(agency, *"AB")

    async def busy_for_a(tx: Tx, batch: Sequence[TripInstance]) -> Ends:
        return {
            trip.id: Busy("down") if trip.id == "A" and len(batch) > 1 else {"read": trip.id}
            for trip in batch
        }

    batch = StepExecution(READ, trips)
    await run_in_database(batch, busy_for_a)
    assert ids(batch.detached) == ["A"]
    await run_in_database(StepExecution(READ, batch.detached), busy_for_a)
    await run_in_database(StepExecution(DEPART, trips), write_ok)
    assert await statuses(agency, "depart") == {"A": "done", "B": "done"}
    assert await statuses(agency, "read") == {"A": "done", "B": "done"}


async def test_a_reading_that_failed_is_journalled_when_the_trip_ends(agency: Agency) -> None:
    (trip,) = await some(agency, "A")
    work = StepExecution(READ, [trip])
    with pytest.raises(UnexpectedStepError):
        await run_external(work, Outside(A=ZeroDivisionError()))
    trip.fail("read", UnexpectedStepError("read", ZeroDivisionError()))
    assert await finish([trip], Saga(READ, DEPART)) == {"A": "compensated"}
    assert await statuses(agency, "read") == {"A": "failed"}


async def test_a_reader_gets_few_trips_at_a_time() -> None:
    """So time and memory are bounded, however many trips a batch has and however long each takes."""
    given: list[int] = []

    async def act(trips: Sequence[TripInstance]) -> Ends:
        given.append(len(trips))
        return {
            trip.id: UnexpectedStepError("read", ValueError()) if trip.id == "77" else {"read": trip.id}
            for trip in trips
        }

    work = StepExecution(READ, [TripInstance(str(i), {}, 1, TRIPS) for i in range(120)])
    await run_reading(work, act)
    assert sum(given) == 120
    assert max(given) <= 50
    assert [trip.id for trip in work.failed] == ["77"]
    assert len(work.done) == 119
    assert all(trip.result("read") == {"read": trip.id} for trip in work.done)
