"""Who may work on a trip, and what is written down about it:
no trip with two workers, no word of a worker who lost it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError

from deployments.environment import environment
from saga import claims, journal
from saga import lease as leases
from saga.checkpoints import checkpoint
from saga.configuration import config
from saga.database import NotWritten, Tx, transaction
from saga.definition import Kind, Saga, Step
from saga.errors import LeaseLost, RecordedFailure, SagaCancelled
from saga.finish import finish, postpone, record_failures
from saga.instance import Entry, SagaInstance
from saga.journal import Record
from saga.lease import lease
from tests.journalled import begin, begin_undo, end, end_undo, write
from tests.saga.trips import TRIPS, Agency, NoSeat, TripInstance
from tests.waiting import until

RESERVE, CHARGE, DEPART = "book_hotel", "pay", "depart"


def ids(trips: list[TripInstance]) -> list[str]:
    return [trip.id for trip in trips]


async def nothing(work: Any) -> None:
    """What the steps here do."""


SAGA = Saga(
    Step(nothing, nothing, Kind.COMPENSATABLE, 1, 0, name=RESERVE),
    Step(nothing, nothing, Kind.COMPENSATABLE, 1, 0, name=CHARGE),
    Step(nothing, None, Kind.PIVOT, 1, 0, name=DEPART),
)


# -- claiming


async def test_what_is_asked_about_open_trips_reads_no_ended_ones(agency: Agency) -> None:
    """Of an owner who has only what `create_tables` makes."""
    asked = {
        "trip_cancelling": "cancel_requested_at IS NOT NULL AND outcome IS NULL",
        "trip_taken_over": "taken_over_from = gen_random_uuid() AND outcome IS NULL",
        "trip_suspected": "outcome IS NULL AND lease_id IS NOT NULL AND takeovers >= 2 ORDER BY number",
    }
    async with transaction() as tx:
        await tx.execute(text("SAVEPOINT before"))
        await tx.execute(text("SET LOCAL enable_seqscan = off"))
        await tx.execute(text("DROP INDEX trip_open"))  # of a few trips it would do as well
        for index, condition in asked.items():
            plan = (await tx.execute(text(f"EXPLAIN SELECT id FROM trip WHERE {condition}"))).scalars()
            assert index in "\n".join(plan)
        await tx.execute(text("ROLLBACK TO SAVEPOINT before"))


@pytest.mark.parametrize("known", [None, ()], ids=["all", "those that the worker does not know"])
async def test_a_release_waits_for_a_claim_without_an_answer(
    agency: Agency, known: tuple[TripInstance, ...] | None
) -> None:
    """The server is about to commit it, long after the worker has given up waiting."""
    mine = await agency.lease()
    await agency.store("A")
    async with transaction() as tx:
        assert await claims.claim(tx, TRIPS, mine, most=1)
        releasing: asyncio.Task[Any] = asyncio.create_task(
            leases.release_all(TRIPS, mine) if known is None else leases.release_strays(TRIPS, mine, known)
        )

        async def waits() -> bool:
            return bool(await agency.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await until(waits, 10, "the release to wait")
        assert not releasing.done()
    await releasing
    assert (await agency.trip("A")).lease_id is None


async def test_nothing_is_claimed_under_a_lease_that_is_gone(agency: Agency) -> None:
    await agency.store("A")
    assert await agency.claim(lease=uuid4()) == []
    assert (await agency.trip("A")).fence == 0


async def test_a_lease_that_others_deleted_is_renewed_and_proves_nothing(agency: Agency) -> None:
    """The machine slept for more than a day."""
    with environment({"LEASE_SECONDS": "2"}):
        async with lease(TRIPS) as mine:
            await agency.rows("DELETE FROM trip_lease WHERE id = :id", id=mine)

            async def back() -> bool:
                return await agency.count("trip_lease") == 1

            await until(back, 20, "the lease to be renewed")
            assert await agency.value("SELECT taken_from FROM trip_lease")


async def test_the_oldest_first_up_to_the_limit(agency: Agency) -> None:
    await agency.store("Z", "B", "M", "A")
    claimed = await agency.claim(most=3)
    assert ids(claimed) == ["Z", "B", "M"]
    assert [(trip.fence, trip.takeovers, trip.lost, trip.journal) for trip in claimed] == [
        (1, 0, False, {})
    ] * 3
    assert claimed[0].payload.traveller == "Ada Z"
    assert ids(await agency.claim(most=3)) == ["A"]
    assert await agency.claim() == []


async def test_only_the_trips_that_are_asked_for(agency: Agency) -> None:
    await agency.store(*"ABCD")
    assert ids(await agency.claim("C", "A", "nobody")) == ["A", "C"]
    assert ids(await agency.claim("C", "D")) == ["D"]


async def test_what_has_ended_or_is_postponed_is_not_claimed(agency: Agency) -> None:
    await agency.store(*"ABC")
    await agency.rows("UPDATE trip SET outcome = 'completed' WHERE id = 'A'")
    await agency.rows("UPDATE trip SET not_before = now() + interval '1 hour' WHERE id = 'B'")
    assert ids(await agency.claim()) == ["C"]
    await agency.rows("UPDATE trip SET not_before = now() - interval '1 second' WHERE id = 'B'")
    assert ids(await agency.claim()) == ["B"]


async def test_trips_that_were_begun(agency: Agency) -> None:
    await agency.store("A", "B")
    await agency.claim("A")
    await agency.expire_leases()
    async with transaction() as tx:
        claimed = await claims.claim(
            tx, TRIPS, await agency.lease(), most=10, only_begun=True, flow_run_id="run"
        )
    assert ids(claimed) == ["A"]
    assert ((await agency.trip("A")).flow_run_id, (await agency.trip("B")).flow_run_id) == ("run", None)


async def test_a_second_claimer_skips_what_the_first_one_is_about_to_take(agency: Agency) -> None:
    """And does not wait for it."""
    await agency.store(*"ABCDE")
    first, second = await agency.lease(), await agency.lease()
    async with transaction() as one:
        mine = await claims.claim(one, TRIPS, first, most=3)
        async with asyncio.timeout(10), transaction() as other:
            others = await claims.claim(other, TRIPS, second, most=3)
    assert (ids(mine), ids(others)) == (["A", "B", "C"], ["D", "E"])
    holders = await agency.rows("SELECT id, lease_id FROM trip ORDER BY id")
    assert [row.lease_id for row in holders] == [first] * 3 + [second] * 2


async def test_a_claim_that_is_not_committed_claims_nothing(agency: Agency) -> None:
    await agency.store("A")

    async def claim_and_fail() -> None:
        async with transaction() as tx:
            assert ids(await claims.claim(tx, TRIPS, await agency.lease(), most=1)) == ["A"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await claim_and_fail()
    (claimed,) = await agency.claim()
    assert (claimed.fence, claimed.takeovers) == (1, 0)


async def test_many_claimers_and_no_trip_claimed_twice(agency: Agency) -> None:
    await agency.store(*(f"{i:03}" for i in range(200)))

    async def worker() -> list[str]:
        mine, lease_id = [], await agency.lease()
        while True:
            async with transaction() as tx:
                claimed = await claims.claim(tx, TRIPS, lease_id, most=7)
            if not claimed:
                return mine
            mine += ids(claimed)

    taken = Counter(i for each in await asyncio.gather(*(worker() for _ in range(16))) for i in each)
    assert len(taken) == 200
    assert set(taken.values()) == {1}
    assert await agency.rows("SELECT DISTINCT fence, takeovers FROM trip") == [(1, 0)]


async def test_a_trip_is_unattended_before_its_dead_workers_lease_runs_out(agency: Agency) -> None:
    async def unattended() -> object:
        async with transaction() as tx:
            return await claims.oldest_unattended(tx, TRIPS)

    await agency.instance("A")
    assert await unattended() is None, "its lease was renewed a moment ago"
    await agency.age_leases(3_600 - config().lease_seconds / 2)  # two renewals are missing
    assert await unattended() == ("A", 1, False)
    assert await agency.claim() == [], "it may live"
    await agency.expire_leases()
    assert await unattended() == ("A", 1, False)
    assert ids(await agency.claim()) == ["A"]


async def test_many_claimers_of_leases_that_ran_out(agency: Agency) -> None:
    await agency.store(*(f"{i:02}" for i in range(50)))
    await agency.claim(most=50)
    await agency.expire_leases()
    claimed: list[TripInstance] = []

    async def worker() -> None:
        claimed.extend(await agency.claim(most=4))

    async def all_claimed() -> bool:
        await asyncio.gather(*(worker() for _ in range(8)))
        return len(claimed) >= 50

    await until(all_claimed, 20, "all trips to be taken over")
    assert sorted(ids(claimed)) == [f"{i:02}" for i in range(50)]
    assert {(trip.fence, trip.takeovers) for trip in claimed} == {(2, 1)}


# -- leases


async def test_a_trip_whose_lease_ran_out_is_taken_over(agency: Agency) -> None:
    (old,) = await agency.instance("A")
    await begin(CHARGE, [old])
    await checkpoint(old, CHARGE, payment_id="pay_1")
    assert await agency.claim() == [], "its worker lives"
    await agency.expire_leases()
    (new,) = await agency.claim()
    assert (new.fence, new.takeovers, new.lease_expired) == (2, 1, True)
    assert new.journal[CHARGE].notes == {"payment_id": "pay_1"}
    assert new.undo_plan() == (CHARGE,)
    await agency.expire_leases()
    (third,) = await agency.claim()
    assert (third.fence, third.takeovers, third.lease_expired) == (3, 2, True)
    await postpone([third], seconds=0)
    (fourth,) = await agency.claim()
    assert (fourth.fence, fourth.takeovers, fourth.lease_expired) == (4, 2, False), "this one was handed back"


async def test_a_trip_whose_lease_is_gone_is_taken_over(agency: Agency) -> None:
    await agency.instance("A")
    await agency.rows("DELETE FROM trip_lease")
    (new,) = await agency.claim()
    assert (new.fence, new.takeovers, new.lease_expired) == (2, 1, True)


async def test_a_lease_lives_as_long_as_its_body(agency: Agency) -> None:
    """Longer than the lease's own time, because it is renewed."""
    await agency.store("A", "B")
    with environment({"LEASE_SECONDS": "2"}):
        async with lease(TRIPS) as mine:
            assert ids(await agency.claim("A", lease=mine)) == ["A"]
            first = await agency.value("SELECT until FROM trip_lease")
            later = "SELECT until > CAST(:first AS timestamptz) + interval '2.5 seconds' FROM trip_lease"

            async def renewed() -> bool:
                return bool(await agency.value(later, first=first))

            await until(renewed, 10, "the lease to be renewed past its first end, twice")
            assert await agency.claim("A") == []
        assert await agency.value("SELECT count(*) FROM trip_lease WHERE id = :id", id=mine) == 0
        (released,) = await agency.claim("A")
    assert (released.fence, released.takeovers) == (2, 0)


async def test_what_is_released_is_claimable_at_once_and_is_no_takeover(agency: Agency) -> None:
    await agency.store("A", "B", "C")
    async with lease(TRIPS) as mine:
        a, b, _ = await agency.claim(lease=mine)
        await begin(RESERVE, [a])
        assert await finish([b], SAGA) == {"B": "completed"}
    again = await agency.claim()
    assert [(trip.id, trip.fence, trip.takeovers, trip.lease_expired) for trip in again] == [
        ("A", 2, 0, False),
        ("C", 2, 0, False),
    ]
    assert again[0].undo_plan() == (RESERVE,)
    assert await agency.value("SELECT outcome FROM trip WHERE id = 'B'") == "completed"


async def test_what_is_released_after_an_error_is_claimable_too(agency: Agency) -> None:
    await agency.store("A")

    async def claim_and_fail() -> None:
        async with lease(TRIPS) as mine:
            await agency.claim(lease=mine)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await claim_and_fail()
    assert [(trip.fence, trip.takeovers) for trip in await agency.claim()] == [(2, 0)]


async def test_what_is_postponed_waits_and_is_no_takeover(agency: Agency) -> None:
    (trip,) = await agency.instance("A")
    await postpone([trip], seconds=3600)
    assert await agency.claim() == []
    await agency.rows("UPDATE trip SET not_before = now()")
    assert [(again.fence, again.takeovers) for again in await agency.claim()] == [(2, 0)]


@pytest.mark.parametrize("ending_first", [False, True], ids=["renewed", "ended"])
async def test_a_takeover_from_a_worker_that_had_lost_only_the_database_does_not_count(
    agency: Agency, monkeypatch: pytest.MonkeyPatch, ending_first: bool
) -> None:
    """Else a database that comes and goes would have good trips given up."""

    @asynccontextmanager
    async def read_only(*_: object, **_more: object) -> AsyncIterator[Tx]:
        raise DBAPIError.instance(
            "UPDATE", {}, psycopg.errors.ReadOnlySqlTransaction("read-only"), psycopg.Error
        )
        yield

    with environment({"LEASE_SECONDS": "1"}):
        await agency.store("A")
        async with lease(TRIPS) as mine:
            await agency.claim("A", lease=mine)
            with monkeypatch.context() as patch:
                patch.setattr(leases, "transaction", read_only)
                await until(partial(has_run_out, agency, mine), 10, "the lease to run out")
                (taken,) = await agency.claim("A")
            assert (taken.takeovers, taken.lone_deaths) == (1, 1)
            if not ending_first:
                await until(partial(is_not_counted, agency), 10, "the worker to be back")
        await until(partial(is_not_counted, agency), 10, "the worker to have said that it lives")
    assert (await agency.trip("A")).fence == 2


@pytest.mark.parametrize("then", ["renewed", "ended"])
async def test_a_renewal_that_is_slow_and_succeeds_forgets_no_death_that_did_not_happen(
    agency: Agency, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """It finds out only afterwards that it was late:
    what it saw of its trips is remembered until that is taken back."""
    taken_over = asyncio.Event()

    @asynccontextmanager
    async def slow(*args: Any, **more: Any) -> AsyncIterator[Tx]:
        await taken_over.wait()
        async with transaction(*args, **more) as tx:
            yield tx

    with environment({"LEASE_SECONDS": "1"}):
        await agency.store("A")
        async with lease(TRIPS) as mine:
            await agency.claim("A", lease=mine)
            monkeypatch.setattr(leases, "transaction", slow)
            await until(partial(has_run_out, agency, mine), 10, "the lease to run out")
            (taken,) = await agency.claim("A")
            assert (taken.takeovers, taken.lone_deaths) == (1, 1)
            taken_over.set()
            await until(partial(has_not_run_out, agency, mine), 10, "the renewal to succeed")
            if then == "renewed":
                await until(partial(is_not_counted, agency), 10, "the next renewal")
    trip = await agency.trip("A")
    assert (trip.takeovers, trip.lone_deaths, trip.fence) == (0, 0, 2)


async def test_a_renewal_that_waits_for_a_takeover_sees_its_result(agency: Agency) -> None:
    await agency.store("A")
    mine = await agency.lease()
    await agency.claim("A", lease=mine)
    await agency.expire_leases()
    other, known = await agency.lease(), leases._Renewal(was_late=True)
    async with transaction() as tx:
        (taken,) = await claims.claim(tx, TRIPS, other, most=1, ids=["A"])
        renewing = asyncio.create_task(leases._renew(TRIPS, mine, known, limit=30))
        await until(partial(is_waiting_for_lock, agency), 10, "the renewal to wait")
    await renewing
    assert (taken.lone_deaths, known.had_single_instance) == (1, True)
    assert await is_not_counted(agency)


async def test_a_connection_that_does_not_answer_does_not_cost_the_lease(
    agency: Agency, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its try is given up early enough for another one, on another connection."""
    tries: list[float] = []

    @asynccontextmanager
    async def first_is_silent(*_: object, seconds: float, **_more: object) -> AsyncIterator[Tx]:
        tries.append(seconds)
        async with transaction(seconds=seconds) as tx:
            if len(tries) == 1:
                await tx.execute(text("SELECT pg_sleep(3600)"))  # ends with the limit of the try
            yield tx

    with environment({"LEASE_SECONDS": "4"}):
        await agency.store("A")
        async with lease(TRIPS) as mine:
            await agency.claim("A", lease=mine)
            first = await agency.value("SELECT until FROM trip_lease WHERE id = :id", id=mine)
            with monkeypatch.context() as patch:
                patch.setattr(leases, "transaction", first_is_silent)

                async def renewed() -> bool:
                    return bool(
                        await agency.value(
                            "SELECT until > :first FROM trip_lease WHERE id = :id", first=first, id=mine
                        )
                    )

                await until(renewed, 10, "the lease to be renewed")
            assert len(tries) >= 2
            assert sum(tries[:1]) < 2, "the second try begins before half of what is left is over"
            assert tries[1] > tries[0], "a database that is slow gets more time"


async def test_a_takeover_from_a_worker_that_was_blocked_counts(agency: Agency) -> None:
    """The trip may be what blocks its workers."""
    with environment({"LEASE_SECONDS": "1"}):
        await agency.store("A")
        async with lease(TRIPS) as mine:
            await agency.claim("A", lease=mine)
            await agency.expire_leases()
            (taken,) = await agency.claim("A")
            await until(partial(has_not_run_out, agency, mine), 10, "the lease to be renewed")
    assert (taken.takeovers, (await agency.trip("A")).takeovers) == (1, 1)


async def die(agency: Agency, times: int, *, most: int = 100) -> None:
    """So many workers claim what there is, and die."""
    for _ in range(times):
        assert await agency.claim(most=most)
        await agency.expire_leases()


async def trial(
    agency: Agency, *, most: int = 40, alone: bool = True, survived: int = 0
) -> list[TripInstance]:
    async with transaction() as tx:
        return await claims.claim(tx, TRIPS, await agency.lease(), most=most, idle=alone, survived=survived)


async def test_after_each_death_fewer_are_tried_together_and_at_last_one(agency: Agency) -> None:
    """A worker may be killed for any reason: only at the third death trips are suspected."""
    await agency.store(*(f"{i:02}" for i in range(12)))
    await die(agency, 3)
    first = await trial(agency)
    assert (ids(first), {trip.on_trial for trip in first}) == (["00", "01", "02", "03"], {True}), "a tenth"
    await agency.expire_leases()
    second = await trial(agency)
    assert ids(second) == ["00"]
    assert (second[0].takeovers, second[0].lone_deaths) == (4, 0), "it was never alone when its worker died"
    await agency.expire_leases()
    third = await trial(agency)
    assert (ids(third), third[0].lone_deaths) == (["00"], 1), "now it was"
    await agency.expire_leases()
    assert [(trip.id, trip.lone_deaths) for trip in await trial(agency, survived=9)] == [("00", 2)], (
        "always alone from now on"
    )
    await agency.expire_leases("00")
    assert ids(await trial(agency)) == ["01"], "it has to pause; the others need not"
    assert {
        row.lone_deaths for row in await agency.rows("SELECT lone_deaths FROM trip WHERE id <> '00'")
    } == {0}


async def test_after_each_trial_that_it_survives_a_worker_takes_more(agency: Agency) -> None:
    await agency.store(*(f"{i:02}" for i in range(12)))
    await die(agency, 3)
    assert [len(await trial(agency, most=10, survived=survived)) for survived in range(4)] == [1, 2, 4, 5]


async def test_a_worker_with_other_trips_starts_no_trial(agency: Agency) -> None:
    await agency.store("A", "B")
    await die(agency, 3)
    await agency.store("C")
    assert ids(await trial(agency, alone=False)) == ["C"]
    assert ids(await trial(agency, alone=False)) == []
    assert (await agency.trip("A")).lease_id is not None
    async with transaction() as tx:
        assert await claims.oldest_unattended(tx, TRIPS) == ("A", 3, True), "somebody is needed for it"


@pytest.mark.parametrize("alone", [True, False])
async def test_beside_a_trip_that_cannot_be_claimed_suspected_ones_are_still_tried_alone(
    agency: Agency, alone: bool
) -> None:
    await agency.store("A", "B")
    await die(agency, 3)
    await agency.store("UNREADABLE", "D", "E")
    await agency.rows(
        """UPDATE trip SET failure = '"unreadable"', fence = 1 WHERE id IN ('A', 'UNREADABLE')"""
    )
    claimed = await claims.claim_batch(TRIPS, await agency.lease(), most=10, idle=alone)
    assert [(trip.id, trip.on_trial) for trip in claimed] == [("D", False), ("E", False)]
    assert (await agency.trip("UNREADABLE")).not_before is not None
    assert await claims.claim_batch(TRIPS, await agency.lease(), most=10, idle=False) == [], (
        "not beside others"
    )
    claimed = await claims.claim_batch(TRIPS, await agency.lease(), most=10)
    assert [(trip.id, trip.on_trial) for trip in claimed] == [("B", True)]
    assert (await agency.trip("A")).not_before is not None, (
        "it is set aside, so that it does not keep suspected ones from their trial"
    )


async def test_trips_not_begun_stay_so_beside_a_trip_that_cannot_be_claimed(
    agency: Agency,
) -> None:
    await agency.store("UNREADABLE", "B", "C")
    await agency.rows("""UPDATE trip SET failure = '"unreadable"' WHERE id = 'UNREADABLE'""")
    await agency.rows("UPDATE trip SET fence = 1 WHERE id <> 'C'")
    assert ids(await claims.claim_batch(TRIPS, await agency.lease(), most=10, only_begun=True)) == ["B"]


@pytest.mark.parametrize("code", ["22012", "XX000"])
async def test_a_trip_that_cannot_be_released_does_not_block_the_end_of_others(
    agency: Agency, code: str
) -> None:
    await agency.store("A", "B", "C")
    await agency.rows(
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.lease_id IS NULL AND NEW.id = 'B' THEN "
        f"RAISE EXCEPTION 'spoiled' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$"
    )
    await agency.rows("CREATE TRIGGER spoil BEFORE UPDATE ON trip FOR EACH ROW EXECUTE FUNCTION spoil()")
    try:
        async with lease(TRIPS) as mine:
            assert len(await agency.claim(lease=mine)) == 3
            assert not await leases.release_strays(TRIPS, mine, [])
            rows = await agency.rows("SELECT id FROM trip WHERE lease_id IS NULL ORDER BY id")
            assert [row.id for row in rows] == ["A", "C"], "also in the middle of a run"
            assert len(await agency.claim("A", "C", lease=mine)) == 2
        again = await agency.claim()
    finally:
        await agency.rows("DROP FUNCTION spoil CASCADE")
    assert [(trip.id, trip.takeovers, trip.lone_deaths) for trip in again] == [
        ("A", 0, 0),
        ("B", 1, 0),
        ("C", 0, 0),
    ]


async def test_a_trip_that_its_worker_released_is_not_suspected(agency: Agency) -> None:
    await agency.store("A", "B")
    await die(agency, 3)
    await postpone(await trial(agency), seconds=0)
    again = await trial(agency, alone=False)
    assert [(trip.id, trip.takeovers, trip.on_trial) for trip in again] == [("A", 3, False), ("B", 3, False)]


async def test_trips_left_by_a_dead_worker_were_claimed_together(agency: Agency) -> None:
    """Others of its trips were taken over before."""
    await agency.store("A", "B")
    await agency.claim()
    await agency.expire_leases()
    assert [trip.lone_deaths for trip in (*await agency.claim(most=1), *await agency.claim(most=1))] == [0, 0]


async def test_a_trip_whose_lease_is_gone_can_be_tried(agency: Agency) -> None:
    await agency.store("A")
    await die(agency, 3)
    await agency.rows("DELETE FROM trip_lease")
    assert [(trip.id, trip.on_trial) for trip in await trial(agency)] == [("A", True)]


async def is_waiting_for_lock(agency: Agency) -> bool:
    return bool(await agency.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))


async def has_run_out(agency: Agency, lease_id: UUID) -> bool:
    return bool(
        await agency.value("SELECT until < clock_timestamp() FROM trip_lease WHERE id = :id", id=lease_id)
    )


async def has_not_run_out(agency: Agency, lease_id: UUID) -> bool:
    return not await has_run_out(agency, lease_id)


async def is_not_counted(agency: Agency) -> bool:
    trip = await agency.trip("A")
    return (trip.takeovers, trip.lone_deaths) == (0, 0)


# -- the fence


async def taken_over(agency: Agency, instance_id: str = "A") -> tuple[TripInstance, TripInstance]:
    """The same trip, as a paused worker has it and as the next one has it."""
    (old,) = await agency.instance(instance_id)
    await begin(CHARGE, [old])
    await agency.expire_leases()
    (new,) = await agency.claim(instance_id)
    return old, new


async def snapshot(agency: Agency) -> list[Any]:
    return [
        await agency.rows(f"SELECT * FROM {table} ORDER BY 1, 2")
        for table in ("trip", "trip_step", "booking")
    ]


async def test_a_worker_who_lost_the_trip_can_write_nothing(agency: Agency) -> None:
    old, new = await taken_over(agency)
    before = await snapshot(agency)
    async with transaction() as tx:
        assert await journal.verify_ownership(tx, [old]) == []
    assert old.lost
    old.lost = False  # a worker that does not know it yet
    with pytest.raises(LeaseLost):
        await checkpoint(old, CHARGE, payment_id="pay_2")
    old.lost = False
    await begin(RESERVE, [old])
    await end(CHARGE, [old], amount_charged="10.00")
    old.lost = False
    old.fail(CHARGE, SagaCancelled())
    await record_failures([old])
    old.lost = False
    assert await finish([old], SAGA) == {}
    old.lost = False
    await postpone([old], seconds=0)
    assert await snapshot(agency) == before
    await checkpoint(new, CHARGE, payment_id="pay_1")
    assert (await agency.step("A", CHARGE)).notes == {"payment_id": "pay_1"}


async def test_a_worker_writes_nothing_about_a_trip_that_has_ended(agency: Agency) -> None:
    (trip,) = await agency.instance("A")
    assert await finish([trip], SAGA) == {"A": "completed"}
    before = await snapshot(agency)
    assert await finish([trip], SAGA) == {}
    await begin(RESERVE, [trip])
    assert await snapshot(agency) == before


@pytest.mark.parametrize("next_one", ["another worker", "the same worker"])
async def test_a_worker_that_released_the_trip_can_write_nothing_more(agency: Agency, next_one: str) -> None:
    """Its lease lives, for its other trips.
    A call in progress for this one must not continue when it returns."""
    mine = await agency.lease()
    await agency.store("A", "B")
    old, other = await agency.claim(lease=mine)
    await begin(CHARGE, [old, other])
    await postpone([old], seconds=0)
    (new,) = await agency.claim("A", lease=mine if next_one == "the same worker" else None)
    before = await snapshot(agency)
    old.lost = False
    with pytest.raises(LeaseLost):
        await checkpoint(old, CHARGE, payment_id="pay_2")
    old.lost = False
    async with transaction() as tx:
        assert await journal.verify_ownership(tx, [old, new, other]) == [new, other]
    assert await snapshot(agency) == before


async def test_a_worker_paused_while_its_trip_is_set_aside_can_write_nothing_more(agency: Agency) -> None:
    """Its lease expired, and it renews it afterwards."""
    (old,) = await agency.instance("A")
    await agency.expire_leases()
    async with transaction() as tx:
        await claims.set_aside(tx, TRIPS, "A")
    await agency.age_leases(-3600)
    async with transaction() as tx:
        assert await journal.verify_ownership(tx, [old]) == []


async def test_a_trip_whose_worker_lives_is_not_set_aside(agency: Agency) -> None:
    (old,) = await agency.instance("A")
    async with transaction() as tx:
        await claims.set_aside(tx, TRIPS, "A")
        assert await journal.verify_ownership(tx, [old]) == [old]
    assert (await agency.trip("A")).not_before is None


async def test_a_trip_that_was_released_as_unknown_is_not_written_about(agency: Agency) -> None:
    """Somebody of this worker still works on it."""
    mine = await agency.lease()
    await agency.store("A")
    (old,) = await agency.claim(lease=mine)
    assert await leases.release_strays(TRIPS, mine, [])
    (new,) = await agency.claim("A")
    async with transaction() as tx:
        assert await journal.verify_ownership(tx, [old, new]) == [new]


async def test_only_those_that_are_lost_are_left_out(agency: Agency) -> None:
    lost, _ = await taken_over(agency, "A")
    b, c = await agency.instance("B", "C")
    async with transaction() as tx:
        assert await journal.verify_ownership(tx, [c, lost, b]) == [c, b]
        assert await journal.verify_ownership(tx, []) == []
    assert (lost.lost, b.lost, c.lost) == (True, False, False)


async def test_a_trip_is_not_claimed_while_its_journal_is_being_written(agency: Agency) -> None:
    (trip,) = await agency.instance("A")
    async with transaction() as tx:
        assert await journal.verify_ownership(tx, [trip]) == [trip]
        await agency.expire_leases()
        async with asyncio.timeout(10):
            assert await agency.claim() == [], "skipped, not waited for"
        await journal.write(tx, [Record(trip, RESERVE, "done", result={"n": 1}, undo_due=True)])
    (new,) = await agency.claim()
    assert new.result(RESERVE) == {"n": 1}


async def test_many_races_between_a_writer_and_a_taker(agency: Agency) -> None:
    """Whoever wins: what the writer could write is in the journal that the taker reads."""
    trips = await agency.instance(*(f"{i:02}" for i in range(40)))
    await agency.expire_leases()

    async def write(trip: TripInstance) -> bool:
        # The server ends a transaction that a busy machine leaves idle for too long: nothing is written then.
        with suppress(OperationalError, InternalError):
            async with transaction() as tx:
                if not await journal.verify_ownership(tx, [trip]):
                    return False
                await journal.write(tx, [Record(trip, CHARGE, "begun", undo_due=True)])
            return True
        return False

    async def take(instance_id: str) -> TripInstance:
        claimed: list[TripInstance] = []

        async def got() -> bool:
            with suppress(OperationalError, InternalError):  # likewise
                claimed.extend(await agency.claim(instance_id))
            return bool(claimed)

        await until(got, 20, f"{instance_id} to be claimable")
        return claimed[0]

    results = await asyncio.gather(*(doing for trip in trips for doing in (write(trip), take(trip.id))))
    for wrote, taken in zip(results[::2], results[1::2], strict=True):
        assert isinstance(taken, SagaInstance)
        assert wrote == (CHARGE in taken.journal)
        assert wrote == (await agency.step(taken.id, CHARGE) is not None)


# -- notes


class Counted:
    """Counts the transactions in which notes are written; fails the selected ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *failures: BaseException) -> None:
        self.begun, self._failures = 0, list(failures)
        monkeypatch.setattr("saga.checkpoints.transaction", self._transaction)

    @asynccontextmanager
    async def _transaction(self, *_: object) -> AsyncIterator[Tx]:
        self.begun += 1
        async with transaction() as tx:
            yield tx
            if self._failures:
                raise self._failures.pop(0)


async def test_many_notes_share_few_commits_and_are_durable(
    agency: Agency, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = await agency.instance(*(f"{i:03}" for i in range(100)))
    await begin(CHARGE, trips)
    counted = Counted(monkeypatch)

    async def two_moves(trip: TripInstance) -> None:
        await checkpoint(trip, CHARGE, payment_id=f"pay_{trip.id}")
        row = await agency.step(trip.id, CHARGE)  # another connection
        assert row.notes == {"payment_id": f"pay_{trip.id}"}
        await checkpoint(trip, CHARGE, confirmed=True)

    await asyncio.gather(*map(two_moves, trips))
    stored = {
        row.instance_id: row.notes for row in await agency.rows("SELECT instance_id, notes FROM trip_step")
    }
    assert stored == {trip.id: {"payment_id": f"pay_{trip.id}", "confirmed": True} for trip in trips}
    assert all(trip.journal[CHARGE].notes == stored[trip.id] for trip in trips)
    assert counted.begun < 60, "a transaction of its own for each note would be 200"
    before = counted.begun
    await asyncio.gather(*(checkpoint(trip, CHARGE, n=1) for trip in trips))
    assert counted.begun == before + 1, "those who are ready at the same time share one"


async def test_one_lost_trip_does_not_spoil_the_notes_of_others(agency: Agency) -> None:
    lost, _ = await taken_over(agency, "A")
    others = await agency.instance("B", "C")
    await begin(CHARGE, others)
    ends = await asyncio.gather(
        *(checkpoint(trip, CHARGE, payment_id="pay") for trip in (lost, *others)), return_exceptions=True
    )
    assert [type(end) for end in ends] == [LeaseLost, type(None), type(None)]
    assert [(await agency.step(i, CHARGE)).notes for i in "ABC"] == [
        {},
        {"payment_id": "pay"},
        {"payment_id": "pay"},
    ]


async def test_notes_that_could_not_be_written_fail_and_the_next_ones_are_written(
    agency: Agency, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = await agency.instance("A", "B")
    await begin(CHARGE, trips)
    Counted(
        monkeypatch,
        OperationalError("COMMIT", {}, Exception("the connection is gone")),
        asyncio.CancelledError(),
    )
    for expected in (OperationalError, NotWritten):
        ends = await asyncio.gather(
            *(checkpoint(trip, CHARGE, payment_id="pay") for trip in trips), return_exceptions=True
        )
        assert [type(end) for end in ends] == [expected] * 2
        assert [(await agency.step(trip.id, CHARGE)).notes for trip in trips] == [{}, {}]
    await asyncio.gather(*(checkpoint(trip, CHARGE, payment_id="pay") for trip in trips))
    assert [(await agency.step(trip.id, CHARGE)).notes for trip in trips] == [{"payment_id": "pay"}] * 2


async def test_one_who_does_not_wait_any_more_does_not_disturb_the_others(agency: Agency) -> None:
    trips = await agency.instance(*"ABC")
    await begin(CHARGE, trips)
    writing = [asyncio.create_task(checkpoint(trip, CHARGE, payment_id="pay")) for trip in trips]
    await asyncio.sleep(0)
    writing[1].cancel()
    ends = await asyncio.gather(*writing, return_exceptions=True)
    assert [type(end) for end in ends] == [type(None), asyncio.CancelledError, type(None)]
    assert [(await agency.step(i, CHARGE)).notes for i in "AC"] == [{"payment_id": "pay"}] * 2


async def test_notes_that_cannot_be_stored_do_not_spoil_those_of_others(agency: Agency) -> None:
    trips = await agency.instance(*"ABC")
    await begin(CHARGE, trips)
    ends = await asyncio.gather(
        *(checkpoint(trip, CHARGE, payment_id="\0" if trip.id == "B" else "pay") for trip in trips),
        return_exceptions=True,
    )
    assert [end is None for end in ends] == [True, False, True]
    assert isinstance(ends[1], DBAPIError)
    assert [(await agency.step(i, CHARGE)).notes for i in "AC"] == [{"payment_id": "pay"}] * 2


async def test_two_notes_about_one_step_are_both_written(agency: Agency) -> None:
    (trip,) = await agency.instance("A")
    await begin(CHARGE, [trip])
    await asyncio.gather(checkpoint(trip, CHARGE, first=1), checkpoint(trip, CHARGE, second=2))
    assert (await agency.step("A", CHARGE)).notes == {"first": 1, "second": 2}


async def test_notes_outlive_the_next_attempt(agency: Agency) -> None:
    (trip,) = await agency.instance("A")
    await begin(CHARGE, [trip])
    await checkpoint(trip, CHARGE, payment_id="pay")
    await begin(CHARGE, [trip])
    assert trip.journal[CHARGE].notes == {"payment_id": "pay"}
    assert (await agency.step("A", CHARGE)).notes == {"payment_id": "pay"}


# -- rows


async def test_a_step_from_its_beginning_to_its_end(agency: Agency) -> None:
    (trip,) = await agency.instance("A")
    await begin(CHARGE, [trip])
    row = await agency.step("A", CHARGE)
    assert (row.status, row.attempts, row.result, row.error, row.undo_due, row.ended_at) == (
        "begun",
        1,
        None,
        None,
        True,
        None,
    )
    assert not trip.done(CHARGE)
    assert trip.undo_plan() == (CHARGE,), "an unclear result counts as done"
    await begin(CHARGE, [trip])
    await write(CHARGE, [trip], "failed", error={"code": "x"}, undo_due=True, again=False)
    row = await agency.step("A", CHARGE)
    assert (row.status, row.attempts, row.error, row.undo_due) == ("failed", 2, {"code": "x"}, True)
    await end(CHARGE, [trip], amount_charged="10.00")
    row = await agency.step("A", CHARGE)
    assert (row.status, row.attempts, row.result, row.error, row.undo_due) == (
        "done",
        2,
        {"amount_charged": "10.00"},
        None,
        True,
    )
    assert row.ended_at >= row.begun_at
    assert trip.done(CHARGE)
    assert trip.result(CHARGE) == {"amount_charged": "10.00"}
    assert await agency.count("trip_step") == 1


async def test_an_undo_from_its_beginning_to_its_end(agency: Agency) -> None:
    (trip,) = await agency.instance("A")
    for step in (RESERVE, CHARGE):
        await begin(step, [trip])
        await end(step, [trip])
    assert trip.undo_plan() == (CHARGE, RESERVE)
    await begin_undo(CHARGE, [trip])
    row = await agency.step("A", CHARGE)
    assert (row.undo_status, row.undo_due, row.undo_attempts) == ("begun", True, 1)
    first_number = row.undo_number
    await end_undo(CHARGE, [trip], None, {"amount_at_risk": "10.00"})
    row = await agency.step("A", CHARGE)
    assert (row.undo_status, row.undo_due, row.undo_error) == ("failed", True, {"amount_at_risk": "10.00"})
    assert trip.undo_plan() == (CHARGE, RESERVE), "a failed undo is never called done"
    await begin_undo(CHARGE, [trip])
    await end_undo(CHARGE, [trip], {"refunded_amount": "10.00"})
    await begin_undo(RESERVE, [trip])
    await end_undo(RESERVE, [trip], {})
    rows = {row.step: row for row in await agency.rows("SELECT * FROM trip_step")}
    assert {(row.undo_status, row.undo_due) for row in rows.values()} == {("done", False)}
    assert (rows[CHARGE].undo_attempts, rows[CHARGE].undo_number, rows[CHARGE].undo_error) == (
        2,
        first_number,
        None,
    )
    assert rows[CHARGE].undo_number < rows[RESERVE].undo_number
    assert rows[CHARGE].undo_ended_at >= rows[CHARGE].undo_begun_at
    assert trip.undo_plan() == ()
    assert not trip.done(CHARGE)


async def test_what_is_begun_again_after_an_undo_gets_a_new_place(agency: Agency) -> None:
    """Undoing goes in the reverse of the sequence of beginning, and this one began anew."""
    (trip,) = await agency.instance("A")
    for step in (RESERVE, CHARGE):
        await begin(step, [trip])
        await end(step, [trip])
    await begin_undo(RESERVE, [trip])
    await end_undo(RESERVE, [trip], {})
    await begin(RESERVE, [trip])
    assert trip.undo_plan() == (RESERVE, CHARGE)
    assert not trip.done(RESERVE)
    await end(RESERVE, [trip], again=True)
    assert trip.done(RESERVE)
    row = await agency.step("A", RESERVE)
    assert (row.undo_status, row.undo_result, row.undo_due) == (None, None, True)
    await agency.expire_leases()
    (next_one,) = await agency.claim()
    assert next_one.undo_plan() == (RESERVE, CHARGE)
    assert next_one.done(RESERVE)


async def test_what_is_begun_again_without_an_undo_keeps_its_place(agency: Agency) -> None:
    (trip,) = await agency.instance("A")
    for step in (RESERVE, CHARGE, RESERVE):
        await begin(step, [trip])
    assert trip.undo_plan() == (CHARGE, RESERVE)
    await agency.expire_leases()
    (next_one,) = await agency.claim()
    assert next_one.undo_plan() == (CHARGE, RESERVE)


async def test_what_the_worker_knows_is_what_the_journal_has(agency: Agency) -> None:
    """After every write, so that it is not read again."""
    (trip,) = await agency.instance("A")

    def in_sequence(trip: TripInstance) -> list[Entry]:
        """Without the numbers themselves, which only say what came before what."""
        return [
            replace(entry, number=0)
            for entry in sorted(trip.journal.values(), key=lambda entry: entry.number)
        ]

    async def check() -> None:
        fresh = TripInstance(trip.id, trip.content, trip.fence, TRIPS)
        async with transaction() as tx:
            await journal.load(tx, [fresh])
        assert in_sequence(fresh) == in_sequence(trip)

    await begin(RESERVE, [trip])
    await check()
    await end(RESERVE, [trip], n=1)
    await check()
    await begin(CHARGE, [trip])
    await checkpoint(trip, CHARGE, payment_id="pay")
    await check()
    await end(CHARGE, [trip], n=2)
    for result, error in ((None, {"x": 2}), ({"x": 1}, None)):
        await begin_undo(CHARGE, [trip])
        await check()
        await end_undo(CHARGE, [trip], result, error)
        await check()


async def test_after_an_unclear_commit_the_journal_is_read_again(agency: Agency) -> None:
    arrived, lost = await agency.instance("A", "B")
    await begin(CHARGE, [arrived])
    arrived.journal.clear()  # the worker was cut off before the commit was confirmed
    lost.journal[CHARGE] = Entry(CHARGE, "begun", 1, undo_due=True)  # and this one never arrived
    async with transaction() as tx:
        await journal.load(tx, [arrived, lost])
        await journal.load(tx, [])
    assert (arrived.journal[CHARGE].status, arrived.undo_plan()) == ("begun", (CHARGE,))
    assert (lost.journal, lost.undo_plan()) == ({}, ())


async def test_a_journal_that_cannot_be_read_again_is_not_forgotten(agency: Agency) -> None:
    """Found by the model: a trip whose journal was empty for a moment began from its first step,
    or had nothing to undo."""
    (trip,) = await agency.instance("A")
    await end(RESERVE, [trip], n=1)
    await begin(CHARGE, [trip])
    journal.defer([Record(trip, "check", "done", {"n": 2})])
    before, pending_records = dict(trip.journal), dict(trip.pending_records)
    with pytest.raises(DBAPIError):  # noqa: PT012  (the transaction is over when its first statement has failed)
        async with transaction() as tx:
            with suppress(DBAPIError):
                await tx.execute(text("SELECT 1 / 0"))
            await journal.load(tx, [trip])
    assert (trip.journal, trip.pending_records) == (before, pending_records)
    assert trip.undo_plan() == (CHARGE, RESERVE)


async def test_a_takeover_continues_undoing(agency: Agency) -> None:
    (trip,) = await agency.instance("A")
    await begin(RESERVE, [trip])
    trip.fail(DEPART, NoSeat("no seat", seats=1))
    trip.fail(CHARGE, SagaCancelled())
    await record_failures([trip])
    await agency.expire_leases()
    (new,) = await agency.claim()
    assert isinstance(new.failure, RecordedFailure)
    assert (new.failing_step, new.failure.kind) == (DEPART, "no_seat")
    assert new.failure.details()["seats"] == 1
    assert new.failure.reasons() == ["1 seats left"]
    assert new.undo_plan() == (RESERVE,)
    assert await finish([new], SAGA) == {"A": "needs_attention"}
    row = await agency.trip("A")
    assert (row.outcome, row.failing_step, row.reasons) == ("needs_attention", DEPART, ["1 seats left"])
