"""Sagas in one database neither wake nor block each other."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from saga import SagaStore
from saga.database import transaction
from saga.wakeup import (
    FINISHED,
    WAITING,
    channel,
    is_consumer_running,
    listening,
    listening_sync,
    notification,
    starting_consumer,
)
from tests.saga.trips import TRIPS, Agency, Trip
from tests.waiting import until

CRUISES = SagaStore("cruise", journal="cruise_step", leases="cruise_lease", parse=Trip.model_validate)


async def test_only_the_saga_s_own_notifications_wake(agency: Agency) -> None:
    with listening_sync(TRIPS, WAITING) as connection:
        async with transaction() as tx:
            await tx.execute(notification(CRUISES, WAITING))
            await tx.execute(notification(TRIPS, FINISHED))
            await tx.execute(text("SELECT pg_notify(:channel, 'own')"), {"channel": channel(TRIPS, WAITING)})
        (own,) = connection.notifies(timeout=10, stop_after=1)
        assert own.payload == "own"


async def test_what_is_submitted_wakes(agency: Agency) -> None:
    with listening_sync(TRIPS, WAITING) as connection:
        await agency.store("A")
        assert len(list(connection.notifies(timeout=10, stop_after=1))) == 1


async def test_a_consumer_of_one_saga_is_none_of_another_s(agency: Agency) -> None:
    async with listening(CRUISES, WAITING, consuming=True):
        assert is_consumer_running(CRUISES)
        assert not is_consumer_running(TRIPS)

    async def is_over() -> bool:
        return not await asyncio.to_thread(is_consumer_running, CRUISES)

    await until(is_over, 10, "the server to notice that the consumer is gone")


async def test_one_process_at_a_time_starts_a_consumer_of_a_saga(agency: Agency) -> None:
    with (
        starting_consumer(TRIPS) as first,
        starting_consumer(TRIPS) as second,
        starting_consumer(CRUISES) as other,
    ):
        assert (first, second, other) == (True, False, True)


@pytest.mark.parametrize("name", ["Trip", "trip-step", "1trip", "t" * 51, ""])
def test_names_that_a_channel_could_not_have_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a valid name"):
        SagaStore(name, journal="j", leases="l", parse=Trip.model_validate)


def test_the_longest_name_leaves_room_for_its_channels() -> None:
    """PostgreSQL cuts longer identifiers, and two channels could become one."""
    store = SagaStore("t" * 50, journal="j", leases="l", parse=Trip.model_validate)
    assert all(len(channel(store, event)) < 64 for event in (WAITING, FINISHED))
