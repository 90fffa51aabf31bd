"""Who may work on an order, and what is written down about it: no order with two workers, no word of a worker who lost it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from deployments.local.environment import environment
from saga import claims, journal
from saga import lease as shop_lease
from saga.checkpoint import checkpoint
from saga.database import NotWritten, Tx, transaction
from saga.definition import Kind, Saga, Step
from saga.errors import LeaseLost, RecordedFailure, SagaCancelled
from saga.finish import finish, postpone, record_failures
from saga.instance import Entry, SagaInstance
from saga.journal import Record
from saga.lease import lease
from shop.inventory.errors import OutOfStock, Shortage
from shop.orders.order import OrderInstance
from shop.orders.store import ORDERS
from tests.integration.domain import Shop, an_order, begin, begin_undo, end, end_undo, write
from tests.waiting import until

pytest_plugins = ["tests.integration.domain_fixtures"]

RESERVE, CHARGE, SHIP = "check_inventory", "process_payment", "fulfill_order"


def ids(orders: list[OrderInstance]) -> list[str]:
    return [order.id for order in orders]


async def nothing(work: Any) -> None:
    """What the steps here do."""


SAGA = Saga(
    Step(nothing, nothing, Kind.COMPENSATABLE, 1, 0, name=RESERVE),
    Step(nothing, nothing, Kind.COMPENSATABLE, 1, 0, name=CHARGE),
    Step(nothing, None, Kind.PIVOT, 1, 0, name=SHIP),
)


# -- claiming ----------------------------------------------------------------------------------------------------------


async def test_the_oldest_first_up_to_the_limit(shop: Shop) -> None:
    await shop.store(*(an_order(i) for i in ("Z", "B", "M", "A")))
    claimed = await shop.claim(most=3)
    assert ids(claimed) == ["Z", "B", "M"]
    assert [(order.fence, order.takeovers, order.lost, order.journal) for order in claimed] == [(1, 0, False, {})] * 3
    assert claimed[0].payload.total_minor == 1000
    assert ids(await shop.claim(most=3)) == ["A"]
    assert await shop.claim() == []


async def test_only_the_orders_that_are_asked_for(shop: Shop) -> None:
    await shop.store(*(an_order(i) for i in "ABCD"))
    assert ids(await shop.claim("C", "A", "nobody")) == ["A", "C"]
    assert ids(await shop.claim("C", "D")) == ["D"]


async def test_what_has_ended_or_is_postponed_is_not_claimed(shop: Shop) -> None:
    await shop.store(*(an_order(i) for i in "ABC"))
    await shop.rows("UPDATE customer_order SET outcome = 'completed' WHERE id = 'A'")
    await shop.rows("UPDATE customer_order SET not_before = now() + interval '1 hour' WHERE id = 'B'")
    assert ids(await shop.claim()) == ["C"]
    await shop.rows("UPDATE customer_order SET not_before = now() - interval '1 second' WHERE id = 'B'")
    assert ids(await shop.claim()) == ["B"]


async def test_those_that_somebody_had_begun_with(shop: Shop) -> None:
    await shop.store(an_order("A"), an_order("B"))
    await shop.claim("A")
    await shop.let_leases_run_out()
    async with transaction() as tx:
        claimed = await claims.claim(tx, ORDERS, await shop.lease(), most=10, only_begun=True, flow_run_id="run")
    assert ids(claimed) == ["A"]
    assert ((await shop.order("A")).flow_run_id, (await shop.order("B")).flow_run_id) == ("run", None)


async def test_a_second_claimer_skips_what_the_first_one_is_about_to_take(shop: Shop) -> None:
    """And does not wait for it."""
    await shop.store(*(an_order(i) for i in "ABCDE"))
    first, second = await shop.lease(), await shop.lease()
    async with transaction() as one:
        mine = await claims.claim(one, ORDERS, first, most=3)
        async with asyncio.timeout(10), transaction() as other:
            others = await claims.claim(other, ORDERS, second, most=3)
    assert (ids(mine), ids(others)) == (["A", "B", "C"], ["D", "E"])
    holders = await shop.rows("SELECT id, lease_id FROM customer_order ORDER BY id")
    assert [row.lease_id for row in holders] == [first] * 3 + [second] * 2


async def test_a_claim_that_is_not_committed_claims_nothing(shop: Shop) -> None:
    await shop.store(an_order("A"))

    async def claim_and_fail() -> None:
        async with transaction() as tx:
            assert ids(await claims.claim(tx, ORDERS, await shop.lease(), most=1)) == ["A"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await claim_and_fail()
    (claimed,) = await shop.claim()
    assert (claimed.fence, claimed.takeovers) == (1, 0)


async def test_many_claimers_and_no_order_claimed_twice(shop: Shop) -> None:
    await shop.store(*(an_order(f"{i:03}") for i in range(200)))

    async def worker() -> list[str]:
        mine, lease_id = [], await shop.lease()
        while True:
            async with transaction() as tx:
                claimed = await claims.claim(tx, ORDERS, lease_id, most=7)
            if not claimed:
                return mine
            mine += ids(claimed)

    taken = Counter(i for each in await asyncio.gather(*(worker() for _ in range(16))) for i in each)
    assert len(taken) == 200
    assert set(taken.values()) == {1}
    assert await shop.rows("SELECT DISTINCT fence, takeovers FROM customer_order") == [(1, 0)]


async def test_many_claimers_of_leases_that_ran_out(shop: Shop) -> None:
    await shop.store(*(an_order(f"{i:02}") for i in range(50)))
    await shop.claim(most=50)
    await shop.let_leases_run_out()
    claimed: list[OrderInstance] = []

    async def worker() -> None:
        claimed.extend(await shop.claim(most=4))

    async def all_claimed() -> bool:
        await asyncio.gather(*(worker() for _ in range(8)))
        return len(claimed) >= 50

    await until(all_claimed, 20, "all orders to be taken over")
    assert sorted(ids(claimed)) == [f"{i:02}" for i in range(50)]
    assert {(order.fence, order.takeovers) for order in claimed} == {(2, 1)}


# -- leases ------------------------------------------------------------------------------------------------------------


async def test_an_order_whose_lease_ran_out_is_taken_over(shop: Shop) -> None:
    (old,) = await shop.instance(an_order("A"))
    await begin(CHARGE, [old])
    await checkpoint(old, CHARGE, payment_id="pay_1")
    assert await shop.claim() == [], "its worker lives"
    await shop.let_leases_run_out()
    (new,) = await shop.claim()
    assert (new.fence, new.takeovers, new.lease_expired) == (2, 1, True)
    assert new.journal[CHARGE].notes == {"payment_id": "pay_1"}
    assert new.undo_plan() == (CHARGE,)
    await shop.let_leases_run_out()
    (third,) = await shop.claim()
    assert (third.fence, third.takeovers, third.lease_expired) == (3, 2, True)
    await postpone([third], seconds=0)
    (fourth,) = await shop.claim()
    assert (fourth.fence, fourth.takeovers, fourth.lease_expired) == (4, 2, False), "this one was handed back"


async def test_an_order_whose_lease_is_gone_is_taken_over(shop: Shop) -> None:
    await shop.instance(an_order("A"))
    await shop.rows("DELETE FROM lease")
    (new,) = await shop.claim()
    assert (new.fence, new.takeovers, new.lease_expired) == (2, 1, True)


async def test_a_lease_lives_as_long_as_its_body(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than the lease's own time, because it is renewed."""
    from shop.settings import settings

    monkeypatch.setenv("LEASE_SECONDS", "2")
    settings.cache_clear()
    await shop.store(an_order("A"), an_order("B"))
    async with lease(ORDERS) as mine:
        assert ids(await shop.claim("A", lease=mine)) == ["A"]
        first = await shop.value("SELECT until FROM lease")

        async def renewed() -> bool:
            return bool(await shop.value("SELECT until > CAST(:first AS timestamptz) + interval '2.5 seconds' FROM lease", first=first))

        await until(renewed, 10, "the lease to be renewed past its first end, twice")
        assert await shop.claim("A") == []
    assert await shop.value("SELECT count(*) FROM lease WHERE id = :id", id=mine) == 0


async def test_what_is_handed_back_is_claimable_at_once_and_is_no_takeover(shop: Shop) -> None:
    await shop.store(an_order("A"), an_order("B"), an_order("C"))
    async with lease(ORDERS) as mine:
        a, b, _ = await shop.claim(lease=mine)
        await begin(RESERVE, [a])
        assert await finish([b], SAGA) == {"B": "completed"}
    again = await shop.claim()
    assert [(order.id, order.fence, order.takeovers, order.lease_expired) for order in again] == [("A", 2, 0, False), ("C", 2, 0, False)]
    assert again[0].undo_plan() == (RESERVE,)
    assert await shop.value("SELECT outcome FROM customer_order WHERE id = 'B'") == "completed"


async def test_what_is_handed_back_after_an_error_is_claimable_too(shop: Shop) -> None:
    await shop.store(an_order("A"))

    async def claim_and_fail() -> None:
        async with lease(ORDERS) as mine:
            await shop.claim(lease=mine)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await claim_and_fail()
    assert [(order.fence, order.takeovers) for order in await shop.claim()] == [(2, 0)]


async def test_what_is_postponed_waits_and_is_no_takeover(shop: Shop) -> None:
    (order,) = await shop.instance(an_order("A"))
    await postpone([order], seconds=3600)
    assert await shop.claim() == []
    await shop.rows("UPDATE customer_order SET not_before = now()")
    assert [(again.fence, again.takeovers) for again in await shop.claim()] == [(2, 0)]


@pytest.mark.parametrize("ending_first", [False, True], ids=["renewed", "ended"])
async def test_a_takeover_from_a_worker_that_had_lost_only_the_database_does_not_count(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, ending_first: bool
) -> None:
    """Else a database that comes and goes would have good orders given up."""

    @asynccontextmanager
    async def away(*_: object, **_more: object) -> AsyncIterator[Tx]:
        raise DBAPIError.instance("UPDATE", {}, psycopg.errors.ReadOnlySqlTransaction("read-only"), psycopg.Error)
        yield

    with environment({"LEASE_SECONDS": "1"}):
        await shop.store(an_order("A"))
        async with lease(ORDERS) as mine:
            await shop.claim("A", lease=mine)
            with monkeypatch.context() as patch:
                patch.setattr(shop_lease, "transaction", away)
                await until(partial(has_run_out, shop, mine), 10, "the lease to run out")
                (taken,) = await shop.claim("A")
            assert (taken.takeovers, taken.lone_deaths) == (1, 1)
            if not ending_first:
                await until(partial(is_not_counted, shop), 10, "the worker to be back")
        await until(partial(is_not_counted, shop), 10, "the worker to have said that it lives")
    assert (await shop.order("A")).fence == 2


@pytest.mark.parametrize("then", ["renewed", "ended"])
async def test_a_renewal_that_is_slow_and_succeeds_forgets_no_death_that_did_not_happen(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """It finds out only afterwards that it was late: what it saw of its orders is remembered until that is taken back."""
    taken_over = asyncio.Event()

    @asynccontextmanager
    async def slow(*args: Any, **more: Any) -> AsyncIterator[Tx]:
        await taken_over.wait()
        async with transaction(*args, **more) as tx:
            yield tx

    with environment({"LEASE_SECONDS": "1"}):
        await shop.store(an_order("A"))
        async with lease(ORDERS) as mine:
            await shop.claim("A", lease=mine)
            monkeypatch.setattr(shop_lease, "transaction", slow)
            await until(partial(has_run_out, shop, mine), 10, "the lease to run out")
            (taken,) = await shop.claim("A")
            assert (taken.takeovers, taken.lone_deaths) == (1, 1)
            taken_over.set()
            await until(partial(has_not_run_out, shop, mine), 10, "the renewal to succeed")
            if then == "renewed":
                await until(partial(is_not_counted, shop), 10, "the next renewal")
    order = await shop.order("A")
    assert (order.takeovers, order.lone_deaths, order.fence) == (0, 0, 2)


async def test_a_renewal_that_waits_for_whoever_takes_over_sees_what_that_one_left(shop: Shop) -> None:
    await shop.store(an_order("A"))
    mine = await shop.lease()
    await shop.claim("A", lease=mine)
    await shop.let_leases_run_out()
    other, known = await shop.lease(), shop_lease._Renewal(was_late=True)
    async with transaction() as tx:
        (taken,) = await claims.claim(tx, ORDERS, other, most=1, ids=["A"])
        renewing = asyncio.create_task(shop_lease._renew(ORDERS, mine, known, limit=30))
        await until(partial(somebody_waits, shop), 10, "the renewal to wait")
    await renewing
    assert (taken.lone_deaths, known.had_single_instance) == (1, True)
    assert await is_not_counted(shop)


async def test_a_connection_that_does_not_answer_does_not_cost_the_lease(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
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
        await shop.store(an_order("A"))
        async with lease(ORDERS) as mine:
            await shop.claim("A", lease=mine)
            first = await shop.value("SELECT until FROM lease WHERE id = :id", id=mine)
            with monkeypatch.context() as patch:
                patch.setattr(shop_lease, "transaction", first_is_silent)

                async def renewed() -> bool:
                    return bool(await shop.value("SELECT until > :first FROM lease WHERE id = :id", first=first, id=mine))

                await until(renewed, 10, "the lease to be renewed")
            assert len(tries) >= 2
            assert sum(tries[:1]) < 2, "the second try begins before half of what is left is over"
            assert tries[1] > tries[0], "a database that is slow gets more time"


async def test_a_takeover_from_a_worker_that_was_blocked_counts(shop: Shop) -> None:
    """The order may be what blocks its workers."""
    with environment({"LEASE_SECONDS": "1"}):
        await shop.store(an_order("A"))
        async with lease(ORDERS) as mine:
            await shop.claim("A", lease=mine)
            await shop.let_leases_run_out()
            (taken,) = await shop.claim("A")
            await until(partial(has_not_run_out, shop, mine), 10, "the lease to be renewed")
    assert (taken.takeovers, (await shop.order("A")).takeovers) == (1, 1)


async def die(shop: Shop, times: int, *, most: int = 100) -> None:
    """So many workers claim what there is, and die."""
    for _ in range(times):
        assert await shop.claim(most=most)
        await shop.let_leases_run_out()


async def trial(shop: Shop, *, most: int = 40, alone: bool = True, survived: int = 0) -> list[OrderInstance]:
    async with transaction() as tx:
        return await claims.claim(tx, ORDERS, await shop.lease(), most=most, idle=alone, survived=survived)


async def test_after_each_death_fewer_are_tried_together_and_at_last_one(shop: Shop) -> None:
    """A worker may be killed for any reason: only at the third death orders are suspected."""
    await shop.store(*(an_order(f"{i:02}") for i in range(12)))
    await die(shop, 3)
    first = await trial(shop)
    assert (ids(first), {order.on_trial for order in first}) == (["00", "01", "02", "03"], {True}), "a tenth"
    await shop.let_leases_run_out()
    second = await trial(shop)
    assert ids(second) == ["00"]
    assert (second[0].takeovers, second[0].lone_deaths) == (4, 0), "it was never alone when its worker died"
    await shop.let_leases_run_out()
    third = await trial(shop)
    assert (ids(third), third[0].lone_deaths) == (["00"], 1), "now it was"
    await shop.let_leases_run_out()
    assert [(order.id, order.lone_deaths) for order in await trial(shop, survived=9)] == [("00", 2)], "always alone from now on"
    await shop.let_leases_run_out("00")
    assert ids(await trial(shop)) == ["01"], "it has to pause; the others need not"
    assert {row.lone_deaths for row in await shop.rows("SELECT lone_deaths FROM customer_order WHERE id <> '00'")} == {0}


async def test_after_each_trial_that_it_survives_a_worker_takes_more(shop: Shop) -> None:
    await shop.store(*(an_order(f"{i:02}") for i in range(12)))
    await die(shop, 3)
    assert [len(await trial(shop, most=10, survived=survived)) for survived in range(4)] == [1, 2, 4, 5]


async def test_who_has_other_orders_in_hand_tries_nobody(shop: Shop) -> None:
    await shop.store(an_order("A"), an_order("B"))
    await die(shop, 3)
    await shop.store(an_order("C"))
    assert ids(await trial(shop, alone=False)) == ["C"]
    assert ids(await trial(shop, alone=False)) == []
    assert (await shop.order("A")).lease_id is not None
    async with transaction() as tx:
        assert await claims.oldest_claimable(tx, ORDERS) == ("A", 3, True), "somebody is needed for it"


@pytest.mark.parametrize("alone", [True, False])
async def test_beside_an_order_that_cannot_be_claimed_suspected_ones_are_still_tried_alone(shop: Shop, alone: bool) -> None:
    await shop.store(an_order("A"), an_order("B"))
    await die(shop, 3)
    await shop.store(an_order("UNREADABLE"), an_order("D"), an_order("E"))
    await shop.rows("""UPDATE customer_order SET failure = '"unreadable"', fence = 1 WHERE id IN ('A', 'UNREADABLE')""")
    claimed = await claims.claim_batch(ORDERS, await shop.lease(), most=10, idle=alone)
    assert [(order.id, order.on_trial) for order in claimed] == [("D", False), ("E", False)]
    assert (await shop.order("UNREADABLE")).not_before is not None
    assert await claims.claim_batch(ORDERS, await shop.lease(), most=10, idle=False) == [], "not beside others"
    claimed = await claims.claim_batch(ORDERS, await shop.lease(), most=10)
    assert [(order.id, order.on_trial) for order in claimed] == [("B", True)]
    assert (await shop.order("A")).not_before is not None, "it is set aside, so that it does not keep suspected ones from their trial"


async def test_those_that_nobody_had_begun_with_stay_so_beside_an_order_that_cannot_be_claimed(shop: Shop) -> None:
    await shop.store(an_order("UNREADABLE"), an_order("B"), an_order("C"))
    await shop.rows("""UPDATE customer_order SET failure = '"unreadable"' WHERE id = 'UNREADABLE'""")
    await shop.rows("UPDATE customer_order SET fence = 1 WHERE id <> 'C'")
    assert ids(await claims.claim_batch(ORDERS, await shop.lease(), most=10, only_begun=True)) == ["B"]


@pytest.mark.parametrize("code", ["22012", "XX000"])
async def test_an_order_that_cannot_be_handed_back_keeps_no_others_at_the_end(shop: Shop, code: str) -> None:
    await shop.store(an_order("A"), an_order("B"), an_order("C"))
    await shop.rows(
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.lease_id IS NULL AND NEW.id = 'B' THEN "
        f"RAISE EXCEPTION 'spoiled' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$"
    )
    await shop.rows("CREATE TRIGGER spoil BEFORE UPDATE ON customer_order FOR EACH ROW EXECUTE FUNCTION spoil()")
    try:
        async with lease(ORDERS) as mine:
            assert len(await shop.claim(lease=mine)) == 3
            assert not await shop_lease.release_strays(ORDERS, mine, [])
            rows = await shop.rows("SELECT id FROM customer_order WHERE lease_id IS NULL ORDER BY id")
            assert [row.id for row in rows] == ["A", "C"], "also in the middle of a run"
            assert len(await shop.claim("A", "C", lease=mine)) == 2
        again = await shop.claim()
    finally:
        await shop.rows("DROP FUNCTION spoil CASCADE")
    assert [(order.id, order.takeovers, order.lone_deaths) for order in again] == [("A", 0, 0), ("B", 1, 0), ("C", 0, 0)]


async def test_an_order_whose_worker_handed_it_back_is_not_suspected(shop: Shop) -> None:
    await shop.store(an_order("A"), an_order("B"))
    await die(shop, 3)
    await postpone(await trial(shop), seconds=0)
    again = await trial(shop, alone=False)
    assert [(order.id, order.takeovers, order.on_trial) for order in again] == [("A", 3, False), ("B", 3, False)]


async def test_orders_that_are_left_of_a_dead_worker_were_not_alone(shop: Shop) -> None:
    """Others of its orders were taken over before."""
    await shop.store(an_order("A"), an_order("B"))
    await shop.claim()
    await shop.let_leases_run_out()
    assert [order.lone_deaths for order in (*await shop.claim(most=1), *await shop.claim(most=1))] == [0, 0]


async def test_an_order_whose_lease_is_gone_can_be_tried(shop: Shop) -> None:
    await shop.store(an_order("A"))
    await die(shop, 3)
    await shop.rows("DELETE FROM lease")
    assert [(order.id, order.on_trial) for order in await trial(shop)] == [("A", True)]


async def somebody_waits(shop: Shop) -> bool:
    return bool(await shop.value("SELECT count(*) FROM pg_locks WHERE NOT granted"))


async def has_run_out(shop: Shop, lease_id: UUID) -> bool:
    return bool(await shop.value("SELECT until < clock_timestamp() FROM lease WHERE id = :id", id=lease_id))


async def has_not_run_out(shop: Shop, lease_id: UUID) -> bool:
    return not await has_run_out(shop, lease_id)


async def is_not_counted(shop: Shop) -> bool:
    order = await shop.order("A")
    return (order.takeovers, order.lone_deaths) == (0, 0)


# -- the fence ---------------------------------------------------------------------------------------------------------


async def taken_over(shop: Shop, order_id: str = "A") -> tuple[OrderInstance, OrderInstance]:
    """The same order, as a paused worker has it and as the next one has it."""
    (old,) = await shop.instance(an_order(order_id))
    await begin(CHARGE, [old])
    await shop.let_leases_run_out()
    (new,) = await shop.claim(order_id)
    return old, new


async def snapshot(shop: Shop) -> list[Any]:
    return [await shop.rows(f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("customer_order", "order_step", "outbox", "reservation")]


async def test_a_worker_who_lost_the_order_can_write_nothing(shop: Shop) -> None:
    old, new = await taken_over(shop)
    before = await snapshot(shop)
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
    assert await snapshot(shop) == before
    await checkpoint(new, CHARGE, payment_id="pay_1")
    assert (await shop.step("A", CHARGE)).notes == {"payment_id": "pay_1"}


async def test_a_worker_writes_nothing_about_an_order_that_has_ended(shop: Shop) -> None:
    (order,) = await shop.instance(an_order("A"))
    assert await finish([order], SAGA) == {"A": "completed"}
    before = await snapshot(shop)
    assert await finish([order], SAGA) == {}
    await begin(RESERVE, [order])
    assert await snapshot(shop) == before


@pytest.mark.parametrize("next_one", ["another worker", "the same worker"])
async def test_a_worker_who_handed_the_order_back_can_write_nothing_more(shop: Shop, next_one: str) -> None:
    """Its lease lives, for its other orders. A call that is still on its way for this one must not go on when it comes back."""
    mine = await shop.lease()
    await shop.store(an_order("A"), an_order("B"))
    old, other = await shop.claim(lease=mine)
    await begin(CHARGE, [old, other])
    await postpone([old], seconds=0)
    (new,) = await shop.claim("A", lease=mine if next_one == "the same worker" else None)
    before = await snapshot(shop)
    old.lost = False
    with pytest.raises(LeaseLost):
        await checkpoint(old, CHARGE, payment_id="pay_2")
    old.lost = False
    async with transaction() as tx:
        assert await journal.verify_ownership(tx, [old, new, other]) == [new, other]
    assert await snapshot(shop) == before


async def test_only_those_that_are_lost_are_left_out(shop: Shop) -> None:
    lost, _ = await taken_over(shop, "A")
    b, c = await shop.instance(an_order("B"), an_order("C"))
    async with transaction() as tx:
        assert await journal.verify_ownership(tx, [c, lost, b]) == [c, b]
        assert await journal.verify_ownership(tx, []) == []
    assert (lost.lost, b.lost, c.lost) == (True, False, False)


async def test_nobody_claims_an_order_while_it_is_being_written_about(shop: Shop) -> None:
    (order,) = await shop.instance(an_order("A"))
    async with transaction() as tx:
        assert await journal.verify_ownership(tx, [order]) == [order]
        await shop.let_leases_run_out()
        async with asyncio.timeout(10):
            assert await shop.claim() == [], "skipped, not waited for"
        await journal.write(tx, [Record(order, RESERVE, "done", result={"n": 1}, undo_due=True)])
    (new,) = await shop.claim()
    assert new.result(RESERVE) == {"n": 1}


async def test_many_races_between_a_writer_and_a_taker(shop: Shop) -> None:
    """Whoever wins: what the writer could write is in the journal that the taker reads."""
    orders = await shop.instance(*(an_order(f"{i:02}") for i in range(40)))
    await shop.let_leases_run_out()

    async def write(order: OrderInstance) -> bool:
        async with transaction() as tx:
            if not await journal.verify_ownership(tx, [order]):
                return False
            await journal.write(tx, [Record(order, CHARGE, "begun", undo_due=True)])
            return True

    async def take(order_id: str) -> OrderInstance:
        claimed: list[OrderInstance] = []

        async def got() -> bool:
            claimed.extend(await shop.claim(order_id))
            return bool(claimed)

        await until(got, 20, f"{order_id} to be claimable")
        return claimed[0]

    results = await asyncio.gather(*(doing for order in orders for doing in (write(order), take(order.id))))
    for wrote, taken in zip(results[::2], results[1::2], strict=True):
        assert isinstance(taken, SagaInstance)
        assert wrote == (CHARGE in taken.journal)
        assert wrote == (await shop.step(taken.id, CHARGE) is not None)


# -- notes -------------------------------------------------------------------------------------------------------------


class Counted:
    """Counts the transactions in which notes are written; fails those that it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *failures: BaseException) -> None:
        self.begun, self._failures = 0, list(failures)
        monkeypatch.setattr("saga.checkpoint.transaction", self._transaction)

    @asynccontextmanager
    async def _transaction(self, *_: object) -> AsyncIterator[Tx]:
        self.begun += 1
        async with transaction() as tx:
            yield tx
            if self._failures:
                raise self._failures.pop(0)


async def test_many_notes_share_few_commits_and_are_durable(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = await shop.instance(*(an_order(f"{i:03}") for i in range(100)))
    await begin(CHARGE, orders)
    counted = Counted(monkeypatch)

    async def two_moves(order: OrderInstance) -> None:
        await checkpoint(order, CHARGE, payment_id=f"pay_{order.id}")
        row = await shop.step(order.id, CHARGE)  # another connection
        assert row.notes == {"payment_id": f"pay_{order.id}"}
        await checkpoint(order, CHARGE, confirmed=True)

    await asyncio.gather(*map(two_moves, orders))
    stored = {row.order_id: row.notes for row in await shop.rows("SELECT order_id, notes FROM order_step")}
    assert stored == {order.id: {"payment_id": f"pay_{order.id}", "confirmed": True} for order in orders}
    assert all(order.journal[CHARGE].notes == stored[order.id] for order in orders)
    assert counted.begun < 60, "a transaction of its own for each note would be 200"
    before = counted.begun
    await asyncio.gather(*(checkpoint(order, CHARGE, n=1) for order in orders))
    assert counted.begun == before + 1, "those who are ready at the same time share one"


async def test_one_lost_order_does_not_spoil_the_notes_of_others(shop: Shop) -> None:
    lost, _ = await taken_over(shop, "A")
    others = await shop.instance(an_order("B"), an_order("C"))
    await begin(CHARGE, others)
    ends = await asyncio.gather(*(checkpoint(order, CHARGE, payment_id="pay") for order in (lost, *others)), return_exceptions=True)
    assert [type(end) for end in ends] == [LeaseLost, type(None), type(None)]
    assert [(await shop.step(i, CHARGE)).notes for i in "ABC"] == [{}, {"payment_id": "pay"}, {"payment_id": "pay"}]


async def test_notes_that_could_not_be_written_say_so_and_the_next_ones_are(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = await shop.instance(an_order("A"), an_order("B"))
    await begin(CHARGE, orders)
    Counted(monkeypatch, OperationalError("COMMIT", {}, Exception("the connection is gone")), asyncio.CancelledError())
    for expected in (OperationalError, NotWritten):
        ends = await asyncio.gather(*(checkpoint(order, CHARGE, payment_id="pay") for order in orders), return_exceptions=True)
        assert [type(end) for end in ends] == [expected] * 2
        assert [(await shop.step(order.id, CHARGE)).notes for order in orders] == [{}, {}]
    await asyncio.gather(*(checkpoint(order, CHARGE, payment_id="pay") for order in orders))
    assert [(await shop.step(order.id, CHARGE)).notes for order in orders] == [{"payment_id": "pay"}] * 2


async def test_one_who_does_not_wait_any_more_does_not_disturb_the_others(shop: Shop) -> None:
    orders = await shop.instance(*(an_order(i) for i in "ABC"))
    await begin(CHARGE, orders)
    writing = [asyncio.create_task(checkpoint(order, CHARGE, payment_id="pay")) for order in orders]
    await asyncio.sleep(0)
    writing[1].cancel()
    ends = await asyncio.gather(*writing, return_exceptions=True)
    assert [type(end) for end in ends] == [type(None), asyncio.CancelledError, type(None)]
    assert [(await shop.step(i, CHARGE)).notes for i in "AC"] == [{"payment_id": "pay"}] * 2


async def test_two_notes_about_one_step_are_both_written(shop: Shop) -> None:
    (order,) = await shop.instance(an_order("A"))
    await begin(CHARGE, [order])
    await asyncio.gather(checkpoint(order, CHARGE, first=1), checkpoint(order, CHARGE, second=2))
    assert (await shop.step("A", CHARGE)).notes == {"first": 1, "second": 2}


async def test_notes_outlive_the_next_attempt(shop: Shop) -> None:
    (order,) = await shop.instance(an_order("A"))
    await begin(CHARGE, [order])
    await checkpoint(order, CHARGE, payment_id="pay")
    await begin(CHARGE, [order])
    assert order.journal[CHARGE].notes == {"payment_id": "pay"}
    assert (await shop.step("A", CHARGE)).notes == {"payment_id": "pay"}


# -- rows --------------------------------------------------------------------------------------------------------------


async def test_a_step_from_its_beginning_to_its_end(shop: Shop) -> None:
    (order,) = await shop.instance(an_order("A"))
    await begin(CHARGE, [order])
    row = await shop.step("A", CHARGE)
    assert (row.status, row.attempts, row.result, row.error, row.undo_due, row.ended_at) == ("begun", 1, None, None, True, None)
    assert not order.done(CHARGE)
    assert order.undo_plan() == (CHARGE,), "an unclear result counts as done"
    await begin(CHARGE, [order])
    await write(CHARGE, [order], "failed", error={"code": "x"}, undo_due=True, again=False)
    row = await shop.step("A", CHARGE)
    assert (row.status, row.attempts, row.error, row.undo_due) == ("failed", 2, {"code": "x"}, True)
    await end(CHARGE, [order], amount_charged="10.00")
    row = await shop.step("A", CHARGE)
    assert (row.status, row.attempts, row.result, row.error, row.undo_due) == ("done", 2, {"amount_charged": "10.00"}, None, True)
    assert row.ended_at >= row.begun_at
    assert order.done(CHARGE)
    assert order.result(CHARGE) == {"amount_charged": "10.00"}
    assert await shop.count("order_step") == 1


async def test_an_undo_from_its_beginning_to_its_end(shop: Shop) -> None:
    (order,) = await shop.instance(an_order("A"))
    for step in (RESERVE, CHARGE):
        await begin(step, [order])
        await end(step, [order])
    assert order.undo_plan() == (CHARGE, RESERVE)
    await begin_undo(CHARGE, [order])
    row = await shop.step("A", CHARGE)
    assert (row.undo_status, row.undo_due, row.undo_attempts) == ("begun", True, 1)
    first_number = row.undo_number
    await end_undo(CHARGE, [order], None, {"amount_at_risk": "10.00"})
    row = await shop.step("A", CHARGE)
    assert (row.undo_status, row.undo_due, row.undo_error) == ("failed", True, {"amount_at_risk": "10.00"})
    assert order.undo_plan() == (CHARGE, RESERVE), "a failed undo is never called done"
    await begin_undo(CHARGE, [order])
    await end_undo(CHARGE, [order], {"refunded_amount": "10.00"})
    await begin_undo(RESERVE, [order])
    await end_undo(RESERVE, [order], {})
    rows = {row.step: row for row in await shop.rows("SELECT * FROM order_step")}
    assert {(row.undo_status, row.undo_due) for row in rows.values()} == {("done", False)}
    assert (rows[CHARGE].undo_attempts, rows[CHARGE].undo_number, rows[CHARGE].undo_error) == (2, first_number, None)
    assert rows[CHARGE].undo_number < rows[RESERVE].undo_number
    assert rows[CHARGE].undo_ended_at >= rows[CHARGE].undo_begun_at
    assert order.undo_plan() == ()
    assert not order.done(CHARGE)


async def test_what_is_begun_again_after_an_undo_gets_a_new_place(shop: Shop) -> None:
    """Undoing goes in the reverse of the sequence of beginning, and this one began anew."""
    (order,) = await shop.instance(an_order("A"))
    for step in (RESERVE, CHARGE):
        await begin(step, [order])
        await end(step, [order])
    await begin_undo(RESERVE, [order])
    await end_undo(RESERVE, [order], {})
    await begin(RESERVE, [order])
    assert order.undo_plan() == (RESERVE, CHARGE)
    assert not order.done(RESERVE)
    await end(RESERVE, [order], again=True)
    assert order.done(RESERVE)
    row = await shop.step("A", RESERVE)
    assert (row.undo_status, row.undo_result, row.undo_due) == (None, None, True)
    await shop.let_leases_run_out()
    (next_one,) = await shop.claim()
    assert next_one.undo_plan() == (RESERVE, CHARGE)
    assert next_one.done(RESERVE)


async def test_what_is_begun_again_without_an_undo_keeps_its_place(shop: Shop) -> None:
    (order,) = await shop.instance(an_order("A"))
    for step in (RESERVE, CHARGE, RESERVE):
        await begin(step, [order])
    assert order.undo_plan() == (CHARGE, RESERVE)
    await shop.let_leases_run_out()
    (next_one,) = await shop.claim()
    assert next_one.undo_plan() == (CHARGE, RESERVE)


async def test_what_the_worker_knows_is_what_the_journal_has(shop: Shop) -> None:
    """After every write, so that nobody has to read it again."""
    (order,) = await shop.instance(an_order("A"))

    def in_sequence(order: OrderInstance) -> list[Entry]:
        """Without the numbers themselves, which only say what came before what."""
        return [replace(entry, number=0) for entry in sorted(order.journal.values(), key=lambda entry: entry.number)]

    async def check() -> None:
        fresh = OrderInstance(order.id, order.content, order.fence, ORDERS)
        async with transaction() as tx:
            await journal.load(tx, [fresh])
        assert in_sequence(fresh) == in_sequence(order)

    await begin(RESERVE, [order])
    await check()
    await end(RESERVE, [order], n=1)
    await check()
    await begin(CHARGE, [order])
    await checkpoint(order, CHARGE, payment_id="pay")
    await check()
    await end(CHARGE, [order], n=2)
    for result, error in ((None, {"x": 2}), ({"x": 1}, None)):
        await begin_undo(CHARGE, [order])
        await check()
        await end_undo(CHARGE, [order], result, error)
        await check()


async def test_after_an_unclear_commit_the_journal_is_read_again(shop: Shop) -> None:
    arrived, lost = await shop.instance(an_order("A"), an_order("B"))
    await begin(CHARGE, [arrived])
    arrived.journal.clear()  # the worker was cut off before it heard of the commit
    lost.journal[CHARGE] = Entry(CHARGE, "begun", 1, undo_due=True)  # and this one never arrived
    async with transaction() as tx:
        await journal.load(tx, [arrived, lost])
        await journal.load(tx, [])
    assert (arrived.journal[CHARGE].status, arrived.undo_plan()) == ("begun", (CHARGE,))
    assert (lost.journal, lost.undo_plan()) == ({}, ())


async def test_a_journal_that_cannot_be_read_again_is_not_forgotten(shop: Shop) -> None:
    """Found by the model: an order whose journal was empty for a moment began from its first step, or had nothing to undo."""
    (order,) = await shop.instance(an_order("A"))
    await end(RESERVE, [order], n=1)
    await begin(CHARGE, [order])
    journal.defer([Record(order, "validate_order", "done", {"n": 2})])
    before, pending_records = dict(order.journal), dict(order.pending_records)
    with pytest.raises(DBAPIError):  # noqa: PT012  (the transaction is over when its first statement has failed)
        async with transaction() as tx:
            with suppress(DBAPIError):
                await tx.execute(text("SELECT 1 / 0"))
            await journal.load(tx, [order])
    assert (order.journal, order.pending_records) == (before, pending_records)
    assert order.undo_plan() == (CHARGE, RESERVE)


async def test_whoever_takes_over_goes_on_undoing(shop: Shop) -> None:
    (order,) = await shop.instance(an_order("A"))
    await begin(RESERVE, [order])
    order.fail(SHIP, OutOfStock([Shortage("P", 2, 1)]))
    order.fail(CHARGE, SagaCancelled())
    await record_failures([order])
    await shop.let_leases_run_out()
    (new,) = await shop.claim()
    assert isinstance(new.failure, RecordedFailure)
    assert (new.failing_step, new.failure.kind) == (SHIP, "out_of_stock")
    assert new.failure.details()["shortages"] == [{"product_id": "P", "requested": 2, "available": 1}]
    assert new.failure.reasons() == ["P: 2 requested, 1 available"]
    assert new.undo_plan() == (RESERVE,)
    assert await finish([new], SAGA) == {"A": "needs_attention"}
    row = await shop.order("A")
    assert (row.outcome, row.failing_step, row.reasons) == ("needs_attention", SHIP, ["P: 2 requested, 1 available"])
