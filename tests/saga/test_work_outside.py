"""One step for many trips outside: the intent is committed first,
each trip ends by itself, and no call is made twice."""

from __future__ import annotations

import asyncio
import errno
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from saga.checkpoints import checkpoint
from saga.database import Tx, transaction
from saga.errors import (
    BatchFailing,
    DatabaseTimeout,
    InfrastructureError,
    LeaseLost,
    StepError,
    StepTimeout,
    UnexpectedStepError,
)
from saga.execution import StepExecution
from saga.external_action import run_external
from saga.finish import postpone
from saga.limit import Limit, Turns
from tests.saga.scripted import ACT, DEPART, READ, Ends, Outside, busy, gone, ids, some, statuses, step
from tests.saga.trips import Agency, Busy, NoSeat, TripInstance
from tests.waiting import until


async def test_the_intent_is_committed_before_the_call_and_the_result_after(agency: Agency) -> None:
    (trip,) = await some(agency, "A")
    seen: list[Any] = []

    async def look(trip: TripInstance) -> Ends:
        row = await agency.step(trip.id, "act")  # another connection
        seen.append((row.status, row.undo_due, row.attempts))
        return {"x": 1}

    await run_external(StepExecution(ACT, [trip]), look)
    assert seen == [("begun", True, 1)]
    row = await agency.step("A", "act")
    assert (row.status, row.undo_due, row.result, row.attempts) == ("done", True, {"x": 1}, 1)


async def test_each_trip_of_a_batch_ends_by_itself(agency: Agency) -> None:
    trips = await some(agency, *"ABCDEFGHIJ")
    act = Outside(B=NoSeat("no"), C=busy(), D=ZeroDivisionError("secret"))
    work = StepExecution(ACT, trips)
    await run_external(work, act)
    assert ids(work.done) == list("AEFGHIJ")
    assert {trip.id: type(end) for trip, end in work.failed.items()} == {
        "B": NoSeat,
        "D": UnexpectedStepError,
    }
    assert ids(work.detached) == ["C"]
    assert set(act.calls.values()) == {1}
    rows = {row.instance_id: row for row in await agency.rows("SELECT * FROM trip_step")}
    assert {i: row.status for i, row in rows.items()} == {
        **dict.fromkeys("AEFGHIJ", "done"),
        "B": "failed",
        "C": "begun",
        "D": "failed",
    }
    assert {row.undo_due for row in rows.values()} == {True}, (
        "whatever failed outside may have done something"
    )
    assert "secret" not in str(rows["D"].error)
    await run_external(StepExecution(ACT, work.detached), act)
    assert act.calls["C"] == 2
    row = await agency.step("C", "act")
    assert (row.status, row.attempts) == ("done", 2)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "secret"),
        OSError(errno.ENOSPC, "secret"),
        MemoryError("secret"),
        httpx.ConnectError("secret"),
        DBAPIError.instance("SELECT 1", {}, psycopg.errors.UndefinedTable("secret"), psycopg.Error),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_trip_waits_for_the_infrastructure_and_its_batch_continues(
    agency: Agency, error: Exception
) -> None:
    trips = await some(agency, *"ABC")
    act, work = Outside(B=[error, error]), StepExecution(ACT, trips)
    await run_external(work, act)
    assert (ids(work.done), work.failed, work.detached) == (["A", "C"], {}, [])
    (trouble,) = work.postponed.values()
    assert isinstance(trouble, InfrastructureError)
    assert trouble.retry_after
    assert "secret" not in str(trouble.details())
    with pytest.raises(InfrastructureError):
        await run_external(StepExecution(ACT, [trips[1]]), act)
    row = await agency.step("B", "act")
    assert (row.status, row.undo_due, row.error["code"]) == ("failed", True, "infrastructure")
    await run_external(StepExecution(ACT, [trips[1]]), act)
    assert (await agency.step("B", "act")).status == "done"


async def test_an_invalid_file_name_of_a_trip_fails_only_that_trip(agency: Agency) -> None:
    (trip,) = await some(agency, "A")
    with pytest.raises(UnexpectedStepError):
        await run_external(
            StepExecution(ACT, [trip]), Outside(A=OSError(errno.ENAMETOOLONG, "File name too long"))
        )


async def test_a_single_trips_failure_is_raised_and_tried_again(agency: Agency) -> None:
    (trip,) = await some(agency, "A")
    act, work = Outside(A=[busy(), NoSeat("no")]), StepExecution(ACT, [trip])
    with pytest.raises(Busy):
        await run_external(work, act)
    row = await agency.step("A", "act")
    assert (row.status, row.undo_due, row.attempts) == ("failed", True, 1)
    with pytest.raises(NoSeat):
        await run_external(work, act)
    await run_external(StepExecution(ACT, [trip]), act)
    row = await agency.step("A", "act")
    assert (row.status, row.attempts, row.error) == ("done", 3, None)
    assert act.calls["A"] == 3


async def test_more_than_a_fifth_failing_fails_the_batch_and_a_second_run_does_only_those(
    agency: Agency,
) -> None:
    trips = await some(agency, *"ABCDEFGHIJ")
    act = Outside(B=busy(), C=busy(), D=busy(), E=NoSeat("no"))
    work = StepExecution(ACT, trips)
    with pytest.raises(BatchFailing) as struggling:
        await run_external(work, act)
    assert struggling.value.retryable
    assert ids(work.detached) == ["B", "C", "D"]
    await run_external(work, act)
    assert {i: n for i, n in act.calls.items() if n > 1} == {"B": 2, "C": 2, "D": 2}
    assert ids(work.done) == list("AFGHIJBCD")
    assert (ids(list(work.failed)), work.detached) == (["E"], [])
    assert {row.instance_id: row.attempts for row in await agency.rows("SELECT * FROM trip_step")} == {
        **dict.fromkeys("AEFGHIJ", 1),
        **dict.fromkeys("BCD", 2),
    }


async def test_a_fifth_may_leave(agency: Agency) -> None:
    trips = await some(agency, *"ABCDEFGHIJ")
    work = StepExecution(ACT, trips)
    await run_external(work, Outside(B=busy(), C=busy()))
    assert ids(work.detached) == ["B", "C"]


@pytest.mark.parametrize("n", [2, 3, 4])
async def test_of_a_small_batch_one_may_leave(agency: Agency, n: int) -> None:
    work = StepExecution(ACT, await some(agency, *"ABCD"[:n]))
    await run_external(work, Outside(A=busy()))
    assert ids(work.detached) == ["A"]
    assert len(work.done) == n - 1


async def test_a_slow_trip_leaves_the_batch_and_its_call_is_not_made_twice(agency: Agency) -> None:
    trips = await some(agency, *"ABCDE")
    act, work = Outside(), StepExecution(ACT, trips, straggler_timeout=0.2)
    answer = act.slow("C")
    await run_external(work, act)
    assert (ids(work.detached), ids(work.done)) == (["C"], list("ABDE"))
    assert await statuses(agency) == {**dict.fromkeys("ABDE", "done"), "C": "begun"}
    alone = asyncio.create_task(run_external(StepExecution(ACT, work.detached), act))

    async def waited_for() -> bool:
        return not trips[2].in_flight

    await until(waited_for, 10, "the trip to be waited for alone")
    answer.set()
    await alone
    assert act.calls == dict.fromkeys("ABCDE", 1)
    row = await agency.step("C", "act")
    assert (row.status, row.result, row.attempts) == ("done", {"called": "C"}, 1)


async def test_a_slow_trip_answered_while_the_others_are_written_stays_behind(
    agency: Agency, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the model: it had no end in its journal,
    and departed with the others although it was refused."""
    trips = await some(agency, *"ABCDE")
    act, work = Outside(C=NoSeat("no")), StepExecution(ACT, trips, straggler_timeout=0.2)
    answer, transactions = act.slow("C"), itertools.count()

    @asynccontextmanager
    async def answered_meanwhile(*commit: Any, **limit: Any) -> AsyncIterator[Tx]:
        async with transaction(*commit, **limit) as tx:
            yield tx
            if next(transactions) == 1:  # after the intent's
                answer.set()
                await until(answered, 10, "the answer")

    async def answered() -> bool:
        return not act.busy("C")

    monkeypatch.setattr("saga.external_action.transaction", answered_meanwhile)
    await run_external(work, act)
    assert (ids(work.detached), ids(work.done)) == (["C"], list("ABDE"))
    with pytest.raises(NoSeat):
        await run_external(StepExecution(ACT, work.detached), act)
    assert act.calls == dict.fromkeys("ABCDE", 1)
    assert await statuses(agency) == {**dict.fromkeys("ABDE", "done"), "C": "failed"}


async def test_a_slow_trip_may_fail_too(agency: Agency) -> None:
    trips = await some(agency, *"AB")
    act = Outside(B=[NoSeat("no")])
    work = StepExecution(ACT, trips, straggler_timeout=0.2)
    answer = act.slow("B")
    await run_external(work, act)
    answer.set()
    with pytest.raises(NoSeat):
        await run_external(StepExecution(ACT, work.detached), act)
    assert act.calls == {"A": 1, "B": 1}
    assert await statuses(agency) == {"A": "done", "B": "failed"}


async def test_a_crowd_of_slow_ones_is_waited_for(agency: Agency) -> None:
    """If most are slow it is no matter of single trips."""
    trips = await some(agency, *"ABCDE")
    act, work = Outside(), StepExecution(ACT, trips, straggler_timeout=0.1)
    answers = [act.slow(i) for i in "ABC"]
    running = asyncio.create_task(run_external(work, act))
    done, _ = await asyncio.wait([running], timeout=0.5)
    assert not done
    for answer in answers:
        answer.set()
    await running
    assert sorted(ids(work.done)) == list("ABCDE")
    assert act.calls == dict.fromkeys("ABCDE", 1)


@pytest.mark.parametrize("n", [1, 3])
async def test_time_that_our_own_database_took_is_not_the_outside_s(agency: Agency, n: int) -> None:
    """Their checkpoints wait for a lock until their time limit:
    nothing is decided about the trips, and they continue later."""
    trips, locked, over = await some(agency, *"ABC"[:n]), asyncio.Event(), asyncio.Event()

    async def lock() -> None:
        async with transaction() as tx:
            await tx.execute(text("SELECT 1 FROM trip_lease FOR UPDATE"))
            locked.set()
            await over.wait()

    async def act(trip: TripInstance) -> Ends:
        await locked.wait()
        try:
            await checkpoint(trip, "act", sent=True)
        finally:
            over.set()
        return {}

    work = StepExecution(step(time_limit=0.3), trips)
    locking: list[asyncio.Task[None]] = []

    async def first_lock(trip: TripInstance) -> Ends:
        if not locking:
            locking.append(asyncio.create_task(lock()))
        return await act(trip)

    if n == 1:
        with pytest.raises(DatabaseTimeout) as failed:
            await run_external(work, first_lock)
        assert failed.value.retry_after
    else:
        await run_external(work, first_lock)
        assert {type(why) for why in work.postponed.values()} == {DatabaseTimeout}
        assert ids(list(work.postponed)) == list("ABC")
    await locking[0]
    again = StepExecution(ACT, trips)
    await run_external(again, act)
    assert ids(again.done) == list("ABC"[:n])
    assert await statuses(agency) == dict.fromkeys("ABC"[:n], "done")


async def test_a_single_trip_is_waited_for_up_to_its_time_limit(agency: Agency) -> None:
    (trip,) = await some(agency, "A")
    act = Outside()
    act.slow("A")
    work = StepExecution(step(time_limit=0.2), [trip], straggler_timeout=0.01)
    with pytest.raises(StepTimeout) as timeout:
        await run_external(work, act)
    assert timeout.value.retryable
    row = await agency.step("A", "act")
    assert (row.status, row.undo_due) == ("failed", True), "what timed out may have been done"
    act.slow("A").set()
    await run_external(work, act)
    assert act.at_once == {"A": 1}


async def test_a_database_failure_does_not_start_a_slow_call_twice(agency: Agency, unretrieved: Any) -> None:
    """While one trip still waits for its answer another one's notes cannot be written: the batch is tried
    again. A second call beside the first would book twice at an airline that forgets keys."""
    trips = await some(agency, *"ABCDEFGHIJ")
    act, work = Outside(B=gone()), StepExecution(ACT, trips, straggler_timeout=0.2)
    answer = act.slow("C")
    with pytest.raises(OperationalError):
        await run_external(work, act)
    second = asyncio.create_task(run_external(work, act))
    try:
        await asyncio.wait([second], timeout=1)
        assert act.at_once["C"] == 1
    finally:
        answer.set()
        await asyncio.wait([second], timeout=20)
    for trip in work.detached:
        await run_external(StepExecution(ACT, [trip]), act)
    assert set((await statuses(agency)).values()) == {"done"}


async def test_a_database_failure_leaves_no_call_unawaited(
    agency: Agency, unretrieved: Callable[[], list[str]]
) -> None:
    """Answers that arrived meanwhile are kept."""
    trips = await some(agency, *"ABCD")
    work = StepExecution(ACT, trips)

    async def run() -> None:
        with pytest.raises(OperationalError):
            await run_external(work, Outside(A=gone(), B=gone(), C=NoSeat("no")))

    await run()
    assert unretrieved() == []


async def test_a_postponed_trip_leaves_no_call_running(agency: Agency) -> None:
    """Another worker may claim the trip, and call, too."""
    trips = await some(agency, *"ABCDEFGHIJ")
    act, work = Outside(), StepExecution(ACT, trips, straggler_timeout=0.2)
    act.slow("C")
    await run_external(work, act)
    assert (ids(work.detached), act.busy("C")) == (["C"], True)
    await postpone(work.detached, seconds=0)
    assert not act.busy("C")


async def test_a_cancelled_caller_cancels_its_calls(agency: Agency) -> None:
    trips = await some(agency, "A", "B")
    act = Outside()
    act.slow("A")
    act.slow("B")
    running = asyncio.create_task(run_external(StepExecution(ACT, trips), act))

    async def called() -> bool:
        return act.calls == {"A": 1, "B": 1}

    await until(called, 10, "both calls to be under way")
    running.cancel()
    assert (await asyncio.wait([running], timeout=10))[0], (
        "it does not wait for the calls to end by themselves"
    )
    assert running.cancelled()
    assert act._now == {"A": 0, "B": 0}
    assert await statuses(agency) == {"A": "begun", "B": "begun"}
    assert [trip.undo_plan() for trip in trips] == [("act",), ("act",)]


async def test_a_lost_trip_is_not_called_and_the_others_are(agency: Agency) -> None:
    trips = await some(agency, *"AB")
    await agency.expire_leases()
    await agency.claim("A")
    act, work = Outside(), StepExecution(ACT, trips)
    await run_external(work, act)
    assert act.calls == {"B": 1}
    assert (ids(work.done), work.failed, work.detached) == (["B"], {}, [])
    trips[0].lost = False
    with pytest.raises(LeaseLost):
        await run_external(StepExecution(ACT, trips[:1]), act)
    assert act.calls == {"B": 1}


async def test_a_trip_that_is_lost_during_its_call_records_nothing(agency: Agency) -> None:
    trips = await some(agency, *"AB")
    before: list[Any] = []

    async def taken_meanwhile(trip: TripInstance) -> Ends:
        if trip.id == "A":
            await agency.expire_leases()
            assert ids(await agency.claim("A")) == ["A"]
            before.append(await agency.step("A", "act"))
        return {"x": 1}

    work = StepExecution(ACT, trips)
    await run_external(work, taken_meanwhile)
    assert await agency.step("A", "act") == before[0]
    assert (ids(work.done), trips[0].lost) == (["B"], True)


answers = st.lists(st.sampled_from(["ok", "busy", "no", "broken", "gone"]), max_size=3)
_runs = itertools.count()


@hypothesis_settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(scripts=st.lists(answers, min_size=1, max_size=12))
async def test_every_trip_ends_once_whatever_the_others_do(
    agency: Agency, unretrieved: Any, scripts: list[list[str]]
) -> None:
    """A batch as the lane runs it: tried again while that can help,
    then each that is left, alone. What is clear stays so."""
    run = next(_runs)
    means: dict[str, Callable[[], Any]] = {
        "ok": lambda: None,
        "busy": busy,
        "no": lambda: NoSeat("no"),
        "broken": ZeroDivisionError,
        "gone": gone,
    }
    passing = [list(itertools.takewhile(lambda word: word in {"busy", "gone"}, script)) for script in scripts]
    clear = [next((word for word in script if word not in {"busy", "gone"}), "ok") for script in scripts]
    plans = {
        f"{run}-{n}": [means[word]() for word in (*first, *[last] * 60)]
        for n, (first, last) in enumerate(zip(passing, clear, strict=True))
    }
    trips = await some(agency, *plans)
    act = Outside(**plans)
    ends: dict[str, str] = {}

    async def through(batch: Sequence[TripInstance]) -> None:
        work = StepExecution(ACT, batch)
        for _ in range(60):
            try:
                await run_external(work, act)
                break
            except (OperationalError, BatchFailing):
                continue
            except StepError as error:
                if not error.retryable:
                    ends[batch[0].id] = "failed"
                    return
        else:
            pytest.fail("no end")
        ends.update({trip.id: "done" for trip in work.done})
        ends.update({trip.id: "failed" for trip in work.failed})
        assert {*ids(work.done), *ids(list(work.failed)), *ids(work.detached)} == set(ids(batch))
        for trip in work.detached:
            await through([trip])

    await through(trips)
    assert set(ends) == set(plans)
    assert [ends[i] for i in plans] == ["done" if word == "ok" else "failed" for word in clear]
    assert all(act.calls[i] > len(first) for i, first in zip(plans, passing, strict=True))
    assert set(act.at_once.values()) == {1}
    journal = dict(
        await agency.rows(
            "SELECT instance_id, status FROM trip_step WHERE instance_id LIKE :run", run=f"{run}-%"
        )
    )
    assert journal == ends


async def test_the_wait_for_a_turn_is_no_part_of_the_time_limit(agency: Agency) -> None:
    """One call at a time: together they take longer than the limit of each."""
    trips = await some(agency, *"ABC")
    limit = Limit("outside", most=lambda: 1, total=lambda: 1)

    async def act(_trip: TripInstance) -> Ends:
        async with limit.turn():
            await asyncio.sleep(1.6)
        return {}

    work = StepExecution(step(time_limit=4), trips)
    with limit.within(Turns(1)):
        await run_external(work, act)
    assert ids(work.done) == list("ABC")


async def test_a_call_that_takes_too_long_in_its_turn_is_stopped(agency: Agency) -> None:
    """And then the others have theirs."""
    trips = await some(agency, *"ABC")
    limit = Limit("outside", most=lambda: 1, total=lambda: 1)

    async def act(trip: TripInstance) -> Ends:
        async with limit.turn():
            if trip.id == "A":
                await asyncio.Event().wait()
        return {}

    work = StepExecution(step(time_limit=0.5), trips)
    with limit.within(Turns(1)):
        await run_external(work, act)
    assert ids(work.done) == list("BC")
    assert ids(work.detached) == ["A"]


async def test_trips_whose_result_is_known_are_not_called(agency: Agency) -> None:
    trips = await some(agency, *"ABC")

    def known(trip: TripInstance) -> dict[str, str] | None:
        if trip.id == "C":
            raise ZeroDivisionError
        return {"from": "memory"} if trip.id == "A" else None

    act, work = Outside(), StepExecution(READ, trips)
    await run_external(work, act, known=known)
    assert sorted(ids(work.done)) == list("ABC")
    assert act.calls == {"B": 1, "C": 1}
    assert trips[0].result("read") == {"from": "memory"}
    depart = StepExecution(DEPART, trips)
    await run_external(depart, act)
    assert await statuses(agency, "read") == dict.fromkeys("ABC", "done")


async def test_a_single_trip_whose_result_is_known_is_not_called(agency: Agency) -> None:
    trips = await some(agency, "A")
    act, work = Outside(), StepExecution(READ, trips)
    await run_external(work, act, known=lambda _trip: {"x": 1})
    assert (ids(work.done), dict(act.calls)) == (["A"], {})
