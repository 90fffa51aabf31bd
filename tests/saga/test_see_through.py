"""The story of one trip when another worker has taken it over:
whatever went wrong here is no longer this worker's to judge."""

from __future__ import annotations

import asyncio
import errno
import signal

import httpx
import psycopg
import pytest
from prefect.exceptions import Abort, MissingResult, Pause, PrefectHTTPStatusError, TerminationSignal
from sqlalchemy.exc import DBAPIError, OperationalError, ResourceClosedError

import saga.prefect.compensation
import saga.prefect.run
from saga.definition import Kind, Saga
from saga.errors import LeaseLost, StepError
from saga.execution import StepExecution
from saga.finish import record_failures
from saga.prefect.compensation import compensate
from saga.prefect.run import run_saga
from tests.journalled import begin, begin_undo, end_undo
from tests.saga.scripted import step
from tests.saga.trips import Agency, NoSeat

RESERVE, CHARGE = "book_hotel", "pay"
TRIP_SAGA = Saga(
    step(name=RESERVE),
    step(name=CHARGE),
    step(Kind.PIVOT, name="depart"),
)


class Cancelled:
    """A run that somebody cancels: what it was asked to withdraw."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    async def withdraw(self, instance_id: str | None) -> list[str] | None:
        self.asked.append(instance_id)
        return []


REQUEST = httpx.Request("POST", "http://prefect/api/task_runs/")


@pytest.mark.parametrize(
    "failure",
    [
        ValueError("nobody foresaw this"),
        KeyError("check"),
        NoSeat("no"),
        OperationalError("SELECT 1", {}, Exception("server closed the connection")),
        LeaseLost("A"),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_what_fails_for_a_trip_that_is_anothers_now_decides_nothing(
    agency: Agency, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """Found by the model: the flow failed with an error of its own,
    or compensated what the other worker held."""
    (trip,) = await agency.instance("A")
    await begin(CHARGE, [trip])
    taken = []

    async def overtaken(_work: StepExecution) -> None:
        if not taken:
            await agency.expire_leases()
            taken.extend(await agency.claim("A"))
            raise failure
        pytest.fail("it goes on with another's trip")

    monkeypatch.setattr(saga.prefect.run, "run_step", overtaken)
    with pytest.raises(LeaseLost) as lost:
        await run_saga(TRIP_SAGA, trip, Cancelled())
    assert lost.value is failure or lost.value.__cause__ is failure
    row, step = await agency.trip("A"), await agency.step("A", CHARGE)
    assert (row.fence, row.lease_id, row.outcome, row.failure) == (2, taken[0].lease, None, None)
    assert (step.status, step.undo_due, step.undo_status) == ("begun", True, None)


async def test_a_cancelled_run_whose_trip_is_anothers_now_is_just_cancelled(
    agency: Agency, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trip,) = await agency.instance("A")

    async def overtaken(_work: StepExecution) -> None:
        await agency.expire_leases()
        await agency.claim("A")
        raise asyncio.CancelledError

    monkeypatch.setattr(saga.prefect.run, "run_step", overtaken)
    with pytest.raises(asyncio.CancelledError):
        await run_saga(TRIP_SAGA, trip, Cancelled())
    assert (await agency.trip("A")).failure is None


@pytest.mark.parametrize(
    "stopped",
    [
        Pause(),
        Abort(),
        TerminationSignal(signal.SIGTERM),
        GeneratorExit(),
        KeyboardInterrupt(),
        SystemExit(1),
    ],
    ids=lambda stopped: type(stopped).__name__,
)
@pytest.mark.parametrize("undoing", [False, True], ids=["going forward", "being undone"])
async def test_what_stops_a_run_decides_nothing_about_its_trip(
    agency: Agency, monkeypatch: pytest.MonkeyPatch, stopped: BaseException, undoing: bool
) -> None:
    """Only a cancelled run cancels. Whatever else is no ordinary exception,
    such as Prefect's signal that a run is suspended, is none."""
    (trip,) = await agency.instance("A")
    await begin(CHARGE, [trip])
    if undoing:
        trip.fail(CHARGE, NoSeat("no"))
        await record_failures([trip])
    cancelled = Cancelled()

    async def stops(_work: StepExecution) -> None:
        raise stopped

    monkeypatch.setattr(saga.prefect.run, "run_step", stops)
    monkeypatch.setattr(saga.prefect.compensation, "run_step", stops)
    with pytest.raises(type(stopped)):
        await run_saga(TRIP_SAGA, trip, cancelled)
    row, step = await agency.trip("A"), await agency.step("A", CHARGE)
    assert (row.outcome, row.cancel_requested_at, row.failure is not None) == (None, None, undoing)
    assert (step.status, step.undo_due, step.undo_status) == ("begun", True, None)
    assert cancelled.asked == []


async def test_one_that_is_anothers_now_does_not_stop_the_undoing_of_others(
    agency: Agency, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other worker could claim them: their lease is valid."""
    lost, other = await agency.instance("A", "B")
    await begin(RESERVE, [lost])
    await begin(CHARGE, [other])
    for trip in (lost, other):
        trip.fail(CHARGE, NoSeat("no"))

    async def undone(work: StepExecution) -> None:
        if work.instances == [lost]:
            lost.lost = True
            raise LeaseLost("A")
        await begin_undo(work.step.name, work.instances)
        await end_undo(work.step.name, work.instances, {"compensation_status": "nothing_to_refund"})

    monkeypatch.setattr(saga.prefect.compensation, "run_step", undone)
    await compensate(TRIP_SAGA, [lost, other])
    assert ((await agency.trip("A")).outcome, (await agency.trip("B")).outcome) == (None, "compensated")


@pytest.mark.parametrize(
    "failure",
    [
        PrefectHTTPStatusError("503", request=REQUEST, response=httpx.Response(503, request=REQUEST)),
        httpx.ConnectError("the Prefect server is away"),
        MissingResult("Prefect's own"),
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("can't start new thread"),
        ExceptionGroup("several", [OSError(errno.ENOSPC, "No space left on device")]),
        ResourceClosedError("This Connection is closed"),
        MemoryError(),
        DBAPIError.instance("SELECT 1", {}, psycopg.errors.UndefinedTable("no such table"), psycopg.Error),
    ],
    ids=lambda failure: type(failure).__name__,
)
@pytest.mark.parametrize("place", ["a step", "undoing"])
async def test_what_is_the_infrastructures_fault_decides_nothing(
    agency: Agency, monkeypatch: pytest.MonkeyPatch, failure: Exception, place: str
) -> None:
    """Prefect's own errors among them: none of the trip's steps has failed."""
    (trip,) = await agency.instance("A")
    await begin(CHARGE, [trip])

    async def fails(work: StepExecution) -> None:
        raise failure

    if place == "undoing":
        trip.fail(CHARGE, NoSeat("no"))
        monkeypatch.setattr(saga.prefect.compensation, "run_step", fails)
        with pytest.raises(type(failure)):
            await run_saga(TRIP_SAGA, trip, Cancelled())
    else:
        monkeypatch.setattr(saga.prefect.run, "run_step", fails)
        await run_saga(TRIP_SAGA, trip, Cancelled())
    row, step = await agency.trip("A"), await agency.step("A", CHARGE)
    assert (row.outcome, row.takeovers) == (None, 0)
    assert (step.status, step.undo_due, step.undo_status) == ("begun", True, None)
    if place == "a step":
        assert (row.failure, row.lease_id, row.waits_for) == (None, None, "infrastructure")
        assert row.not_before is not None


async def test_the_same_failure_of_a_claimed_trip_is_judged(
    agency: Agency, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the tests above cannot pass for nothing."""
    (trip,) = await agency.instance("A")

    async def fails(_work: StepExecution) -> None:
        raise NoSeat("no")

    monkeypatch.setattr(saga.prefect.run, "run_step", fails)
    await run_saga(TRIP_SAGA, trip, Cancelled())
    assert isinstance(trip.failure, StepError)
    assert (await agency.trip("A")).outcome == "compensated"
