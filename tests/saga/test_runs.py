"""Trips from submission to outcome, in flow runs: one, many by a consumer, and what a dead worker left."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from prefect import flow
from sqlalchemy import text

from saga import claims
from saga.database import Tx, transaction
from saga.definition import Kind, Saga, Step
from saga.execution import StepExecution
from saga.lease import lease
from saga.limit import Limit
from saga.log_context import about, bind_instance, fields
from saga.prefect import (
    Consumer,
    cancelled_by_sigterm,
    database_compensation,
    database_step,
    external_compensation,
    external_step,
    process,
    recover,
)
from saga.prefect.steps import run_step
from saga.submission import InstanceConflict
from saga.wakeup import WAITING, listening
from tests.saga.scripted import gone, ids
from tests.saga.trips import TRIPS, Agency, Busy, NoSeat, Trip, TripInstance

pytestmark = pytest.mark.usefixtures("prefect_api")
FULL = "full"
"""A trip whose id begins with it finds no seat when it departs."""


async def _add(tx: Tx, what: str, trip: TripInstance) -> dict[str, str]:
    await tx.execute(
        text("INSERT INTO booking (trip_id, what) VALUES (:id, :what)"), {"id": trip.id, "what": what}
    )
    return {"made": what}


@external_step()
async def book_flight(trip: TripInstance) -> dict[str, str]:
    async with transaction() as tx:
        return await _add(tx, "flight", trip)


@external_compensation()
async def cancel_flight(trip: TripInstance) -> dict[str, str]:
    async with transaction() as tx:
        return await _add(tx, "no flight", trip)


@database_step()
async def book_hotel(tx: Tx, trips: Sequence[TripInstance]) -> dict[str, Any]:
    return {trip.id: await _add(tx, "hotel", trip) for trip in trips}


@database_compensation()
async def cancel_hotel(tx: Tx, trips: Sequence[TripInstance]) -> dict[str, Any]:
    return {trip.id: await _add(tx, "no hotel", trip) for trip in trips}


@database_step()
async def depart(tx: Tx, trips: Sequence[TripInstance]) -> dict[str, Any]:
    return {
        trip.id: NoSeat() if trip.id.startswith(FULL) else await _add(tx, "departure", trip) for trip in trips
    }


SAGA = Saga(
    Step(book_flight, cancel_flight, Kind.COMPENSATABLE, time_limit=20, retries=1),
    Step(book_hotel, cancel_hotel, Kind.COMPENSATABLE, time_limit=20, retries=1),
    Step(depart, None, Kind.PIVOT, time_limit=20, retries=1),
)
DONE = {"flight": 1, "hotel": 1, "departure": 1, "news": 1}
UNDONE = {"flight": 1, "hotel": 1, "no hotel": 1, "no flight": 1, "news": 1}


@flow
async def book(trip_id: str, traveller: str = "Ada") -> str:
    return await process(SAGA, TRIPS, trip_id, Trip(id=trip_id, traveller=traveller).model_dump())


@flow
async def take_up() -> int:
    return await recover(SAGA, TRIPS)


class Consumed:
    """What a consumer claimed, and the side work that ran beside it."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.worked = self.ended_with_all_claimed = False

    async def side_work(self, consumer: Consumer[Trip]) -> None:
        async with consumer.exclusive() as allowed:
            self.worked = allowed
        await consumer.all_claimed.wait()
        self.ended_with_all_claimed = consumer.runner.idle


@flow
async def consume(consumed: Any, seconds: float = 0, batch_size: int = 10) -> None:
    consumer = Consumer(
        SAGA, TRIPS, batch_size=batch_size, on_claimed=lambda trips: consumed.batches.append(ids(trips))
    )
    async with (
        cancelled_by_sigterm(),
        listening(TRIPS, WAITING, consuming=True) as listener,
        lease(TRIPS) as lease_id,
    ):
        await consumer.run(lease_id, listener, seconds, consumed.side_work)


async def take_all(saga: Saga) -> int:
    """Takes up trips of this saga."""

    @flow
    async def take_these() -> int:
        return await recover(saga, TRIPS)

    return await take_these()


async def made(agency: Agency, trip_id: str) -> dict[str, int]:
    return dict(
        await agency.rows("SELECT what, count(*) FROM booking WHERE trip_id = :id GROUP BY what", id=trip_id)
    )


async def undone(agency: Agency, trip_id: str) -> list[str]:
    rows = await agency.rows(
        "SELECT step FROM trip_step WHERE instance_id = :id AND undo_status = 'done' ORDER BY undo_number",
        id=trip_id,
    )
    return [row.step for row in rows]


async def test_one_trip(agency: Agency) -> None:
    for _ in range(2):
        assert await book("A") == "completed"
    assert await made(agency, "A") == DONE
    with pytest.raises(InstanceConflict):
        await book("A", "Grace")


async def test_one_trip_that_fails_is_undone_in_reverse(agency: Agency) -> None:
    trip_id = f"{FULL}-A"
    for _ in range(2):
        assert await book(trip_id) == "compensated"
    assert await made(agency, trip_id) == UNDONE
    assert await undone(agency, trip_id) == ["book_hotel", "book_flight"]
    assert (await agency.trip(trip_id)).failing_step == "depart"


async def test_a_consumer_takes_all_and_those_that_fail_do_not_disturb_the_others(agency: Agency) -> None:
    good, full = [f"T{number:02}" for number in range(12)], [f"{FULL}-{number}" for number in range(2)]
    await agency.store(*good, *full)
    consumed = Consumed()
    await consume(consumed, batch_size=7)
    assert consumed.batches == [good[:7], [*good[7:], *full]]
    assert (consumed.worked, consumed.ended_with_all_claimed) == (True, True)
    for trip_id in good:
        assert await made(agency, trip_id) == DONE
    for trip_id in full:
        assert await made(agency, trip_id) == UNDONE
        assert await undone(agency, trip_id) == ["book_hotel", "book_flight"]
    assert await agency.rows("SELECT outcome, count(*) FROM trip GROUP BY outcome ORDER BY outcome") == [
        ("compensated", 2),
        ("completed", 12),
    ]
    assert await agency.count("trip_lease") == 0


async def test_a_consumer_does_not_end_because_the_database_did_not_answer_its_claim(
    agency: Agency, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it does not know whether any trip waits."""
    claim_batch, errors = claims.claim_batch, [gone()]

    async def claim(*given: Any, **wanted: Any) -> list[TripInstance]:
        if errors:
            raise errors.pop()
        return await claim_batch(*given, **wanted)

    monkeypatch.setattr(claims, "claim_batch", claim)
    await agency.store("A")
    await consume(Consumed())
    assert await made(agency, "A") == DONE
    assert (await agency.trip("A")).outcome == "completed"


async def test_a_consumer_that_is_stopped_finishes_or_releases_what_it_has(agency: Agency) -> None:
    await agency.store(*"ABC")
    consumed = Consumed()
    running = asyncio.create_task(consume(consumed, seconds=300))
    while not consumed.batches:
        await asyncio.sleep(0.01)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    rows = await agency.rows("SELECT id, outcome, lease_id FROM trip ORDER BY id")
    assert {row.lease_id for row in rows} == {None}
    await take_up()
    for trip_id in "ABC":
        assert await made(agency, trip_id) == DONE
    assert await agency.count("trip_lease") == 0


async def test_what_a_dead_worker_left_behind_is_recovered(agency: Agency) -> None:
    await agency.instance("A", f"{FULL}-B")
    await agency.expire_leases()
    assert await take_up() == 2
    assert await made(agency, "A") == DONE
    assert await made(agency, f"{FULL}-B") == UNDONE
    assert {row.takeovers for row in await agency.rows("SELECT takeovers FROM trip")} == {1}


async def test_detached_trips_keep_to_the_limit_together(agency: Agency) -> None:
    """All fail together, so that each is tried alone, at the same time as the others, under one lease."""
    limit = Limit("one call", lambda: 1, lambda: 1)
    tried: set[str] = set()
    running: set[str] = set()
    at_once: list[int] = []

    @external_step(limit=limit)
    async def book_guide(trip: TripInstance) -> dict[str, str]:
        if trip.id not in tried:
            tried.add(trip.id)
            raise Busy
        async with limit.turn():
            running.add(trip.id)
            at_once.append(len(running))
            await agency.count("trip")  # meanwhile others could begin
            running.remove(trip.id)
        return {}

    guided = Saga(
        Step(book_guide, cancel_flight, Kind.COMPENSATABLE, time_limit=20, retries=0),
        Step(depart, None, Kind.PIVOT, time_limit=20, retries=0),
    )
    await agency.store(*"ABCDEF")
    assert await take_all(guided) == 6
    assert at_once == [1] * 6
    assert await agency.rows("SELECT DISTINCT outcome FROM trip") == [("completed",)]


async def test_a_last_step_that_keeps_failing_is_tried_less_and_less_often(agency: Agency) -> None:
    @external_step()
    async def send_postcard(trip: TripInstance) -> dict[str, str]:
        raise Busy

    saga = Saga(
        Step(depart, None, Kind.PIVOT, time_limit=20, retries=0),
        Step(send_postcard, None, Kind.RETRIABLE, time_limit=20, retries=0),
    )
    await agency.store("A")
    pauses: list[float] = []
    for _ in range(3):
        assert await take_all(saga) == 1
        pauses.append(float(await agency.value("SELECT extract(epoch FROM not_before - now()) FROM trip")))
        await agency.rows("UPDATE trip SET not_before = now()")
    assert pauses == sorted(pauses)
    assert pauses[2] > 2 * pauses[0]


async def test_a_task_that_is_gone_never_runs_for_another_one(agency: Agency) -> None:
    """The tasks of a saga that a function defines may get the places in memory of earlier ones."""

    def saga_with(number: int) -> Step:
        @external_step()
        async def note(trip: TripInstance) -> dict[str, int]:
            return {"number": number}

        return Step(note, None, Kind.PIVOT, time_limit=20, retries=0)

    @flow
    async def run_one(number: int) -> int:
        (trip,) = await agency.instance(f"T{number}")
        await run_step(StepExecution(saga_with(number), [trip]))
        return int(trip.result("note")["number"])

    for number in range(10):
        assert await run_one(number) == number
        gc.collect()


async def test_a_trip_is_called_a_trip_wherever_people_see_it(agency: Agency) -> None:
    async def run() -> None:
        (a, b) = await agency.instance("A", "B")
        with about("depart", [a]):
            assert fields().items() >= {"step": "depart", "trip_id": "A"}.items()
        with about("depart", [a, b]):
            assert fields().items() >= {"trips": 2}.items()
            bind_instance(b)
            assert fields()["trip_id"] == "B"

    await asyncio.create_task(run())
    await agency.rows("UPDATE trip SET lease_id = NULL")
    await agency.rows("UPDATE trip SET cancel_requested_at = now(), cancel_reason = 'ill' WHERE id = 'A'")
    assert await take_up() == 2
    assert ((await agency.trip("A")).failing_step, (await agency.trip("A")).outcome) == (
        "cancel_trip",
        "compensated",
    )
