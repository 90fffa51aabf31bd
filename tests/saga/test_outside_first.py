"""A step in the database that something outside comes before, and the undo of both; without Prefect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from saga.database import Tx
from saga.definition import Kind, Step
from saga.errors import LeaseLost, SagaCancelled, StepError, UnexpectedStepError
from saga.execution import StepExecution
from saga.external_action import run_external
from tests.saga.trips import Agency, Busy, NoSeat, TripInstance


async def not_run(work: Any) -> None:
    """Tests call `run_external` themselves."""


DEPART = Step(not_run, not_run, Kind.PIVOT, 30, 0, name="depart")


class Outside:
    """Something outside that is made, and in the end there or not."""

    def __init__(self, **refusals: StepError) -> None:
        self.refusals, self.calls = refusals, list[str]()

    async def __call__(self, trip: TripInstance) -> dict[str, Any]:
        self.calls.append(trip.id)
        if trip.id in self.refusals:
            raise self.refusals[trip.id]
        return {"made": trip.id}


class Inside:
    """What is then done in the transaction."""

    def __init__(
        self, *, error: Exception | None = None, at: str | None = None, **refusals: StepError
    ) -> None:
        self.error, self.at, self.refusals = error, at, refusals
        self.batches: list[list[str]] = []

    async def __call__(
        self, tx: Tx, trips: Sequence[TripInstance]
    ) -> Mapping[str, dict[str, Any] | StepError]:
        self.batches.append([trip.id for trip in trips])
        if self.error is not None and (self.at is None or self.at in self.batches[-1]):
            raise self.error
        return {trip.id: self.refusals.get(trip.id) or {"departed": trip.id} for trip in trips}


async def some(agency: Agency, *ids: str) -> list[TripInstance]:
    return await agency.instance(*ids)


async def test_outside_first_then_one_transaction(agency: Agency) -> None:
    trips = await some(agency, "A", "B", "C")
    work, outside, inside = StepExecution(DEPART, trips), Outside(B=NoSeat("no")), Inside()
    await run_external(work, outside, inside)
    assert [trip.id for trip in work.done] == ["A", "C"]
    assert {trip.id for trip in work.failed} == {"B"}
    assert inside.batches == [["A", "C"]], "who was refused outside is not asked for here"
    done, refused = await agency.step("A", "depart"), await agency.step("B", "depart")
    assert (done.status, done.result, done.undo_due) == ("done", {"departed": "A"}, False)
    assert (refused.status, refused.undo_due) == ("failed", True), "something may be there: it is undone"


async def test_from_the_beginning_on_its_undo_is_due(agency: Agency) -> None:
    trips = await some(agency, "A")

    async def look(trip: TripInstance) -> dict[str, Any]:
        row = await agency.step("A", "depart")
        assert (row.status, row.undo_due) == ("begun", True)
        return {}

    await run_external(StepExecution(DEPART, trips), look, Inside())
    assert not (await agency.step("A", "depart")).undo_due


async def test_what_the_transaction_refuses_is_undone(agency: Agency) -> None:
    trips = await some(agency, "A")
    with pytest.raises(SagaCancelled):
        await run_external(StepExecution(DEPART, trips), Outside(), Inside(A=SagaCancelled("not wanted")))
    assert trips[0].undo_plan() == ("depart",)
    row = await agency.step("A", "depart")
    assert (row.status, row.undo_due) == ("failed", True)


async def test_a_lost_database_connection_does_not_repeat_the_outside_call(agency: Agency) -> None:
    trips = await some(agency, "A", "B")
    work, outside = StepExecution(DEPART, trips), Outside()
    connection_closed = OperationalError("SELECT 1", {}, Exception("server closed the connection"))
    with pytest.raises(OperationalError):
        await run_external(work, outside, Inside(error=connection_closed))
    await run_external(work, outside, Inside())
    assert sorted(outside.calls) == ["A", "B"]
    assert len(work.done) == 2


async def test_only_the_trip_that_breaks_the_statement_fails(agency: Agency) -> None:
    trips = await some(agency, "A", "B")
    outside, inside = Outside(), Inside(error=ZeroDivisionError(), at="B")
    work = StepExecution(DEPART, trips)
    await run_external(work, outside, inside)
    assert {trip.id for trip in work.detached} == {"A", "B"}
    await run_external(StepExecution(DEPART, trips[:1]), outside, inside)
    with pytest.raises(UnexpectedStepError):
        await run_external(StepExecution(DEPART, trips[1:]), outside, inside)
    assert sorted(outside.calls) == ["A", "B"], "nobody is asked twice"
    assert (await agency.step("A", "depart")).status == "done"
    assert ((await agency.step("B", "depart")).status, trips[1].undo_plan()) == ("failed", ("depart",))


async def test_undoing_is_both_too(agency: Agency) -> None:
    trips = await some(agency, "A")
    with pytest.raises(NoSeat):
        await run_external(StepExecution(DEPART, trips), Outside(A=NoSeat("no")), Inside())
    with pytest.raises(Busy):
        await run_external(StepExecution(DEPART, trips, undo=True), Outside(A=Busy("away")), Inside())
    assert trips[0].undo_plan() == ("depart",), "not done, so it stays due"
    with pytest.raises(UnexpectedStepError):
        await run_external(
            StepExecution(DEPART, trips, undo=True), Outside(), Inside(error=ZeroDivisionError())
        )
    assert trips[0].undo_plan() == ("depart",)
    await run_external(StepExecution(DEPART, trips, undo=True), Outside(), Inside())
    row = await agency.step("A", "depart")
    assert (row.undo_status, row.undo_due, row.undo_result) == ("done", False, {"departed": "A"})


async def test_a_worker_that_lost_the_trip_does_not_depart(agency: Agency) -> None:
    (trip,) = await some(agency, "A")
    inside = Inside()

    async def lose(_: TripInstance) -> dict[str, Any]:
        await agency.expire_leases("A")
        await agency.claim("A")
        return {}

    with pytest.raises(LeaseLost):
        await run_external(StepExecution(DEPART, [trip]), lose, inside)
    assert inside.batches == []
