"""Cancel requests: what becomes of one, whatever the trip's state."""

from __future__ import annotations

import pytest

from saga.cancelling import Asked, request_cancellation, withdraw
from saga.database import transaction
from saga.definition import Kind, Saga
from saga.finish import finish, record_failures
from saga.wakeup import WAITING, listening_sync
from tests.saga.scripted import step
from tests.saga.trips import TRIPS, Agency, NoSeat

SAGA = Saga(step(name="book_hotel"), step(Kind.PIVOT, name="depart"))


async def ask(trip_id: str = "A", reason: str = "ill") -> Asked | None:
    async with transaction() as tx:
        return await tx.run_sync(
            lambda connection: request_cancellation(connection, TRIPS, trip_id, reason=reason, by="Ada")
        )


async def leave(trip_id: str | None, run: str | None) -> list[str]:
    async with transaction() as tx:
        return await tx.run_sync(
            lambda connection: withdraw(
                connection, TRIPS, instance_id=trip_id, flow_run_id=run, reason="ill", by="Ada"
            )
        )


async def test_an_open_trip_is_going_to_be_compensated(agency: Agency) -> None:
    await agency.store("A")
    await agency.rows("UPDATE trip SET not_before = now() + interval '1 hour'")
    with listening_sync(TRIPS, WAITING) as connection:
        assert await ask() is Asked.ASKED
        assert len(list(connection.notifies(timeout=10, stop_after=1))) == 1
    row = await agency.trip("A")
    assert (row.cancel_reason, row.cancel_requested_by, row.status, row.not_before) == (
        "ill",
        "Ada",
        "received",
        None,
    )
    (trip,) = await agency.claim()
    assert trip.cancel_reason == "ill"


async def test_the_first_request_counts(agency: Agency) -> None:
    await agency.store("A")
    assert [await ask(reason=reason) for reason in ("ill", "poor")] == [Asked.ASKED, Asked.KNOWN]
    assert (await agency.trip("A")).cancel_reason == "ill"


async def test_one_that_failed_is_being_compensated_already(agency: Agency) -> None:
    (trip,) = await agency.instance("A")
    trip.fail("book_hotel", NoSeat())
    await record_failures([trip])
    assert await ask() is Asked.KNOWN
    assert (await agency.trip("A")).cancel_requested_at is None


async def test_a_completed_one_is_open_again(agency: Agency) -> None:
    assert await finish(await agency.instance("A"), SAGA) == {"A": "completed"}
    assert await ask() is Asked.ASKED
    row = await agency.trip("A")
    assert (row.outcome, row.finished_at, row.status) == (None, None, TRIPS.hooks.status_past_pivot)
    assert [trip.id for trip in await agency.claim()] == ["A"]


@pytest.mark.parametrize("outcome", ["compensated", "needs_attention"])
async def test_one_that_ended_otherwise_has_nothing_to_compensate(agency: Agency, outcome: str) -> None:
    await agency.store("A")
    await agency.rows("UPDATE trip SET outcome = :outcome", outcome=outcome)
    assert await ask() is Asked.ENDED
    assert (await agency.trip("A")).outcome == outcome


async def test_an_unknown_one(agency: Agency) -> None:
    assert await ask("nobody") is None


async def test_a_run_withdraws_its_own_and_those_that_it_had_unless_they_are_past_the_pivot(
    agency: Agency,
) -> None:
    await agency.store(*"ABCDEF")
    await agency.rows("UPDATE trip SET flow_run_id = 'run' WHERE id <> 'A'")
    await agency.rows("UPDATE trip SET flow_run_id = 'other' WHERE id = 'B'")
    await agency.rows("UPDATE trip SET status = :status WHERE id = 'C'", status=TRIPS.hooks.status_past_pivot)
    await agency.rows("UPDATE trip SET outcome = 'completed' WHERE id = 'D'")
    await ask("E")
    assert sorted(await leave("A", "run")) == ["A", "F"]
    assert await leave("A", "run") == []
    requested = await agency.rows("SELECT id FROM trip WHERE cancel_requested_at IS NOT NULL ORDER BY id")
    assert [row.id for row in requested] == ["A", "E", "F"]
