"""One step for many trips in our own database:
each ends by itself, and effect and journal are one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy.exc import OperationalError

from saga.database import Tx
from saga.database_action import run_in_database
from saga.errors import LeaseLost, StepTimeout, UnexpectedStepError
from saga.execution import StepExecution
from tests import journalled
from tests.saga.scripted import (
    ACT,
    DEPART,
    Effects,
    Ends,
    cancel_seats,
    failing_commits,
    gone,
    ids,
    some,
    statuses,
    step,
)
from tests.saga.trips import Agency, Busy, NoSeat, TripInstance


async def test_a_batch_is_one_transaction_with_its_journal(agency: Agency) -> None:
    trips = await some(agency, *"ABC")
    act, work = Effects(agency, B=NoSeat(seats=1)), StepExecution(ACT, trips)
    await run_in_database(work, act)
    assert act.asked == [["A", "B", "C"]]
    assert await act.made() == {"A": 1, "C": 1}
    assert (ids(work.done), ids(list(work.failed)), work.detached) == (["A", "C"], ["B"], [])
    rows = {row.instance_id: row for row in await agency.rows("SELECT * FROM trip_step")}
    assert {i: (row.status, row.undo_due, row.attempts) for i, row in rows.items()} == {
        "A": ("done", True, 1),
        "B": ("failed", False, 1),  # it did nothing, so there is nothing to undo
        "C": ("done", True, 1),
    }
    assert rows["A"].result == {"seat": "A"}
    assert rows["B"].error["seats"] == 1
    assert trips[1].undo_plan() == ()


async def test_what_is_done_is_not_done_again(agency: Agency) -> None:
    trips = await some(agency, *"ABC")
    act = Effects(agency)
    await run_in_database(StepExecution(ACT, trips[:2]), act)
    again = StepExecution(ACT, trips)
    await run_in_database(again, act)
    assert act.asked == [["A", "B"], ["C"]]
    assert ids(again.done) == ["A", "B", "C"]
    await run_in_database(again, act)
    assert len(act.asked) == 2
    assert await act.made() == {"A": 1, "B": 1, "C": 1}


async def test_a_step_that_runs_again_leaves_a_later_one_done(agency: Agency) -> None:
    """What was reserved has expired meanwhile; what was paid has not."""
    trips = await some(agency, *"AB")
    await journalled.begin("pay", trips[:1])
    await journalled.end("pay", trips[:1], payment="pay_1")
    await run_in_database(StepExecution(ACT, trips, following=step(name="pay")), Effects(agency))
    paid, begun = await agency.step("A", "pay"), await agency.step("B", "pay")
    assert (paid.status, paid.result, paid.attempts) == ("done", {"payment": "pay_1"}, 1)
    assert trips[0].done("pay")
    assert (begun.status, begun.result) == ("begun", None)


async def test_an_exception_for_one_trip_detaches_all_and_none_is_lost(agency: Agency) -> None:
    trips = await some(agency, *"ABC")
    act, batch = Effects(agency, B=ZeroDivisionError("secret")), StepExecution(ACT, trips)
    await run_in_database(batch, act)
    assert (batch.done, batch.failed, ids(batch.detached)) == ([], {}, ["A", "B", "C"])
    assert await act.made() == {}, "one transaction: all of it was rolled back"
    assert await statuses(agency) == {}
    for trip in batch.detached:
        alone = StepExecution(ACT, [trip])
        if trip.id == "B":
            with pytest.raises(UnexpectedStepError) as broken:
                await run_in_database(alone, act)
            assert "ZeroDivisionError" in str(broken.value)
            assert "secret" not in str(broken.value.details())
        else:
            await run_in_database(alone, act)
            assert trip.result("act") == {"seat": trip.id}
    assert await act.made() == {"A": 1, "C": 1}
    assert await statuses(agency) == {"A": "done", "B": "failed", "C": "done"}
    assert trips[1].undo_plan() == ()


async def test_a_trip_that_the_action_forgot_does_not_take_the_others_with_it(agency: Agency) -> None:
    trips = await some(agency, *"ABC")

    async def forgetful(tx: Tx, batch: Sequence[TripInstance]) -> Ends:
        return {trip.id: {} for trip in batch if trip.id != "B"}

    batch = StepExecution(ACT, trips)
    await run_in_database(batch, forgetful)
    assert ids(batch.detached) == ["A", "B", "C"]
    await run_in_database(StepExecution(ACT, trips[:1]), forgetful)
    with pytest.raises(UnexpectedStepError):
        await run_in_database(StepExecution(ACT, trips[1:2]), forgetful)
    assert await statuses(agency) == {"A": "done", "B": "failed"}


async def test_a_database_failure_affects_the_whole_batch_and_is_retried_together(agency: Agency) -> None:
    trips = await some(agency, *"ABC")
    act, work = Effects(agency, B=gone()), StepExecution(ACT, trips)
    with pytest.raises(OperationalError):
        await run_in_database(work, act)
    assert await act.made() == {}
    assert await statuses(agency) == {}
    act.ends.clear()
    await run_in_database(work, act)
    assert await act.made() == {"A": 1, "B": 1, "C": 1}
    assert ids(work.done) == ["A", "B", "C"]


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("n", [1, 3])
async def test_an_unclear_commit_is_looked_up(
    agency: Agency, monkeypatch: pytest.MonkeyPatch, arrives: bool, n: int
) -> None:
    trips = await some(agency, *"ABC"[:n])
    act, work = Effects(agency), StepExecution(ACT, trips)
    failing_commits(monkeypatch, arrives=arrives)
    with pytest.raises(OperationalError):
        await run_in_database(work, act)
    await run_in_database(work, act)
    assert await act.made() == dict.fromkeys("ABC"[:n], 1)
    assert set((await statuses(agency)).values()) == {"done"}
    assert all(trip.result("act") == {"seat": trip.id} for trip in trips)
    assert len(act.asked) == (1 if arrives else 2)


@pytest.mark.parametrize("arrives", [True, False])
async def test_what_timed_out_at_its_commit_can_be_undone(
    agency: Agency, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    """The last attempt's result is unclear, so it counts as done: undoing finds out."""
    (trip,) = await some(agency, "A")
    act = Effects(agency)
    with monkeypatch.context() as patch:
        failing_commits(patch, arrives=arrives, error=TimeoutError())
        with pytest.raises(StepTimeout):
            await run_in_database(StepExecution(ACT, [trip]), act)
    assert await act.made() == ({"A": 1} if arrives else {})
    await run_in_database(StepExecution(ACT, [trip], undo=True), cancel_seats)
    assert await act.made() == {}
    assert trip.undo_plan() == ()


async def test_a_batch_that_takes_too_long_did_nothing(agency: Agency) -> None:
    trips = await some(agency, "A", "B")
    never = asyncio.Event()

    async def slow(tx: Tx, batch: Sequence[TripInstance]) -> Ends:
        await Effects(agency)(tx, batch)
        await never.wait()
        return {}

    with pytest.raises(StepTimeout) as timeout:
        await run_in_database(StepExecution(step(time_limit=0.2), trips), slow)
    assert timeout.value.retryable
    assert await Effects(agency).made() == {}
    assert await statuses(agency) == {}


async def test_a_lost_trip_is_left_out_and_the_others_continue(agency: Agency) -> None:
    trips = await some(agency, *"ABC")
    await agency.expire_leases()
    await agency.claim("B")
    act, work = Effects(agency), StepExecution(ACT, trips)
    await run_in_database(work, act)
    assert (ids(work.done), work.failed, work.detached) == (["A", "C"], {}, [])
    assert trips[1].lost
    assert await act.made() == {"A": 1, "C": 1}
    alone = StepExecution(ACT, [trips[1]])
    trips[1].lost = False
    with pytest.raises(LeaseLost):
        await run_in_database(alone, act)
    assert await act.made() == {"A": 1, "C": 1}


async def test_a_single_trips_no_is_raised_and_journalled(agency: Agency) -> None:
    (trip,) = await some(agency, "A")
    work = StepExecution(ACT, [trip])
    with pytest.raises(NoSeat):
        await run_in_database(work, Effects(agency, A=NoSeat(seats=1)))
    assert await statuses(agency) == {"A": "failed"}
    await run_in_database(work, Effects(agency))
    row = await agency.step("A", "act")
    assert (row.status, row.attempts, row.error, row.result) == ("done", 2, None, {"seat": "A"})


async def test_a_transient_failure_of_a_trip_in_the_database_lets_it_leave_the_batch(agency: Agency) -> None:
    """A retryable "no" of a database step: the trip continues alone,
    and if it is more than a fifth the batch tries again together."""
    trips = await some(agency, *"ABCDEFGHIJ")
    act, work = Effects(agency, C=Busy("down")), StepExecution(DEPART, trips)
    await run_in_database(work, act)
    assert ids(work.detached) == ["C"]
    assert len(work.done) == 9
    act.ends.clear()
    await run_in_database(StepExecution(DEPART, work.detached), act)
    assert await act.made() == dict.fromkeys("ABCDEFGHIJ", 1)
