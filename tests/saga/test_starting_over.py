"""A trip that has ended begins again, or is opened again."""

from __future__ import annotations

from typing import Any

import pytest

from saga import journal, manual
from saga.database import transaction
from saga.definition import Kind, Saga
from saga.finish import finish
from tests import journalled
from tests.saga.scripted import step
from tests.saga.trips import TRIPS, Agency, NoSeat

SAGA = Saga(step(name="book_hotel"), step(Kind.PIVOT, name="depart"))


async def start_over(trip_id: str = "A", **changes: Any) -> list[dict[str, Any]]:
    async with transaction() as tx:
        return await tx.run_sync(manual.start_over, TRIPS, trip_id, changes)


async def failed(agency: Agency) -> Any:
    """A trip whose hotel was booked and cancelled again, and that was taken over before."""
    (trip,) = await agency.instance("A")
    await journalled.begin("book_hotel", [trip])
    await journalled.end("book_hotel", [trip], hotel="Ritz")
    await journalled.begin_undo("book_hotel", [trip])
    await journalled.end_undo("book_hotel", [trip], {"compensation_status": "success"})
    await journalled.write("depart", [trip], "failed", error={"code": "no_seat"})
    trip.fail("depart", NoSeat())
    assert await finish([trip], SAGA) == {"A": "compensated"}
    await agency.rows(
        "UPDATE trip SET takeovers = 3, lone_deaths = 1, taken_over_from = gen_random_uuid(), "
        "waits_for = 'x', waits_since = now(), not_before = now() + interval '1 hour', "
        "cancel_requested_at = now(), "
        "cancel_reason = 'ill', cancel_requested_by = 'Ada', failure = '{}'"
    )
    return trip


async def test_it_begins_like_a_new_one(agency: Agency) -> None:
    before = await failed(agency)
    await start_over(traveller="Bob")
    row = (await agency.trip("A"))._mapping
    fresh = ("outcome", "failing_step", "failure", "started_at", "finished_at", "not_before", "flow_run_id")
    fresh += ("lease_id", "taken_over_from", "waits_for", "waits_since", "cancel_requested_at")
    fresh += ("cancel_reason", "cancel_requested_by")
    assert {name: row[name] for name in fresh} == dict.fromkeys(fresh)
    assert (row["status"], row["reasons"], row["undone"]) == ("received", [], [])
    assert (row["takeovers"], row["lone_deaths"]) == (0, 0)
    assert row["submitted_at"] > before.submitted_at
    (trip,) = await agency.claim()
    assert (trip.journal, trip.failure, trip.content) == ({}, None, {"id": "A", "traveller": "Bob"})


async def test_its_journal_is_returned_in_its_sequence_and_gone(agency: Agency) -> None:
    await failed(agency)
    entries = await start_over()
    assert [(entry["step"], entry["status"], entry["undo_status"]) for entry in entries] == [
        ("book_hotel", "done", "done"),
        ("depart", "failed", None),
    ]
    assert entries[0]["result"] == {"hotel": "Ritz"}
    assert await agency.count("trip_step") == 0


async def test_a_worker_of_the_try_before_can_write_nothing(agency: Agency) -> None:
    before = await failed(agency)
    await start_over()
    (trip,) = await agency.claim()
    before.lost = False  # it was paused, and does not know that the trip has ended
    async with transaction() as tx:
        assert await journal.verify_ownership(tx, [before]) == []
        assert await journal.verify_ownership(tx, [trip]) == [trip]


async def test_a_worker_that_does_not_know_of_the_end_can_write_nothing_once_it_is_open_again(
    agency: Agency,
) -> None:
    """Also before another worker has claimed it."""
    before = await failed(agency)
    async with transaction() as tx:
        assert await tx.run_sync(manual.reopen, TRIPS, ["A", "unknown"]) == ["A"]
    before.lost = False  # the answer to its commit was lost
    async with transaction() as tx:
        assert await journal.verify_ownership(tx, [before]) == []
    assert await agency.claim()


async def test_it_can_end_otherwise(agency: Agency) -> None:
    await failed(agency)
    await start_over()
    (trip,) = await agency.claim()
    await journalled.begin("book_hotel", [trip])
    await journalled.end("book_hotel", [trip])
    assert await finish([trip], SAGA) == {"A": "completed"}
    assert (await agency.trip("A")).failing_step is None


async def test_only_one_that_has_ended(agency: Agency) -> None:
    await agency.instance("A")
    for trip_id in ("A", "unknown"):
        with pytest.raises(ValueError, match="not ended"):
            await start_over(trip_id)
    assert (await agency.trip("A")).fence == 1
