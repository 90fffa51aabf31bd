"""Undoing for many trips: results are recorded, what breaks stays due, and nothing is made twice."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from saga.database import Tx
from saga.database_action import run_in_database
from saga.errors import UnexpectedStepError
from saga.execution import StepExecution
from saga.external_action import run_external
from tests.saga.scripted import ACT, Effects, Ends, Outside, busy, cancel_seats, ids, some
from tests.saga.trips import Agency, Busy, NoSeat, TripInstance


async def test_an_undo_in_the_database_records_its_results(agency: Agency) -> None:
    trips, act = await some(agency, *"ABC"), Effects(agency)
    await run_in_database(StepExecution(ACT, trips[:2]), act)
    assert await act.made() == {"A": 1, "B": 1}
    for _ in range(2):
        work = StepExecution(ACT, trips, undo=True)
        await run_in_database(work, cancel_seats)
        assert await act.made() == {}
        assert sorted(ids(work.done)) == list("ABC"), "what never began needs no undoing"
    rows = {row.instance_id: row for row in await agency.rows("SELECT * FROM trip_step")}
    assert sorted(rows) == ["A", "B"]
    for row in rows.values():
        assert (row.status, row.undo_status, row.undo_due, row.undo_attempts) == ("done", "done", False, 1)
        assert row.undo_result == {"cancelled": 1}
    assert [trip.undo_plan() for trip in trips] == [(), (), ()]


async def test_an_undo_outside_records_its_results(agency: Agency) -> None:
    trips = await some(agency, *"ABCDEF")
    await run_external(StepExecution(ACT, trips), Outside())
    refused = NoSeat("never", seats=2)
    act, work = Outside(B=refused, C=busy()), StepExecution(ACT, trips, undo=True)
    await run_external(work, act)
    assert (ids(work.done), ids(list(work.failed)), ids(work.detached)) == (list("ADEF"), ["B"], ["C"])
    rows = {row.instance_id: row for row in await agency.rows("SELECT * FROM trip_step")}
    assert {i: (row.undo_status, row.undo_due) for i, row in rows.items()} == {
        **dict.fromkeys("ADEF", ("done", False)),
        "B": ("failed", True),
        "C": ("begun", True),
    }
    assert rows["B"].undo_error["seats"] == 2
    assert rows["A"].undo_result == {"called": "A"}
    assert {row.status for row in rows.values()} == {"done"}, "that it was done is not forgotten"
    alone = StepExecution(ACT, work.detached, undo=True)
    await run_external(alone, act)
    assert alone.done[0].journal["act"].undo_result == {"called": "C"}
    with pytest.raises(NoSeat):
        await run_external(StepExecution(ACT, [trips[1]], undo=True), Outside(B=refused))
    assert (await agency.step("B", "act")).undo_attempts == 2
    assert trips[1].undo_plan() == ("act",)
    await run_external(StepExecution(ACT, trips, undo=True), act)
    assert act.calls == {**dict.fromkeys("ADEF", 1), "B": 2, "C": 2}


async def test_an_undo_that_breaks_stays_due(agency: Agency) -> None:
    (trip,) = await some(agency, "A")
    await run_external(StepExecution(ACT, [trip]), Outside())

    async def breaks(tx: Tx, trips: Sequence[TripInstance]) -> Ends:
        raise ZeroDivisionError

    with pytest.raises(UnexpectedStepError):
        await run_in_database(StepExecution(ACT, [trip], undo=True), breaks)
    row = await agency.step("A", "act")
    assert (row.undo_status, row.undo_due, row.undo_error["code"]) == ("failed", True, "step_broken")


async def test_what_only_began_is_undone_too(agency: Agency) -> None:
    (trip,) = await some(agency, "A")
    with pytest.raises(Busy):
        await run_external(StepExecution(ACT, [trip]), Outside(A=busy()))
    act = Outside()
    await run_external(StepExecution(ACT, [trip], undo=True), act)
    assert act.calls == {"A": 1}
    assert trip.undo_plan() == ()


async def test_a_slow_undo_leaves_the_batch_and_is_not_made_twice(agency: Agency) -> None:
    trips = await some(agency, *"AB")
    await run_external(StepExecution(ACT, trips), Outside())
    act, work = Outside(), StepExecution(ACT, trips, undo=True, straggler_timeout=0.2)
    answer = act.slow("B")
    await run_external(work, act)
    assert ids(work.detached) == ["B"]
    answer.set()
    await run_external(StepExecution(ACT, work.detached, undo=True), act)
    assert act.calls == {"A": 1, "B": 1}
    assert {row.undo_status for row in await agency.rows("SELECT * FROM trip_step")} == {"done"}
