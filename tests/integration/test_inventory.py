"""Stock: all of an order or nothing of it, never oversold, never lost, whoever asks at the same time."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text

from saga import journal
from saga.database import as_json, transaction
from saga.errors import StepError
from shop.inventory import embedded, reservations
from shop.inventory.errors import OutOfStock, ReservationLost, Shortage
from shop.inventory.expiry import expire_reservations
from shop.inventory.port import STEP, ReleaseResult, ReservationResult, reservation_id
from shop.orders.order import OrderInstance
from shop.settings import settings
from tests.integration.domain import Shop, an_order
from tests.journalled import begin, end

pytest_plugins = ["tests.integration.domain_fixtures"]


async def reserve(*orders: OrderInstance) -> dict[str, ReservationResult | StepError]:
    async with transaction() as tx:
        return await embedded.reserve(tx, await journal.verify_ownership(tx, orders))


async def release(*orders: OrderInstance) -> dict[str, ReleaseResult]:
    async with transaction() as tx:
        return await embedded.release(tx, await journal.verify_ownership(tx, orders))


async def ship(*orders: OrderInstance) -> dict[str, dict[str, int] | ReservationLost]:
    async with transaction() as tx:
        return await reservations.ship(tx, [order.id for order in await journal.verify_ownership(tx, orders)])


def short(result: object) -> list[tuple[str, int, int]]:
    assert isinstance(result, OutOfStock), result
    return [(s.product_id, s.requested, s.available) for s in result.shortages]


# -- reserving


async def test_all_items_are_reserved(shop: Shop) -> None:
    await shop.add_stock(P=10, Q=5)
    (order,) = await shop.instance(an_order("A", ("P", 2), ("Q", 5), ("P", 1)))
    result = (await reserve(order))["A"]
    assert isinstance(result, ReservationResult)
    assert (result.inventory_status, result.reservation_id, result.total_items_reserved) == (
        "reserved",
        "RES-A",
        8,
    )
    assert result.total_reserved_value == Decimal("80.00")
    assert {(item.product_id, item.quantity, item.reservation_id) for item in result.reserved_items} == {
        ("P", 3, "RES-A"),
        ("Q", 5, "RES-A"),
    }
    assert (await shop.stock("P"), await shop.stock("Q")) == ((10, 3), (5, 5))
    (row,) = await shop.rows("SELECT * FROM reservation")
    assert (row.order_id, row.id, row.state, row.items, row.ended_at) == (
        "A",
        "RES-A",
        "held",
        {"P": 3, "Q": 5},
        None,
    )
    assert (row.expires_at - row.created_at).total_seconds() == settings().inventory.reservation_minutes * 60
    assert await shop.wrong_stock() == []


async def test_all_or_none_and_every_short_item_is_reported(shop: Shop) -> None:
    await shop.add_stock(P=10, Q=5, R=0)
    (order,) = await shop.instance(an_order("A", ("P", 2), ("Q", 3), ("Q", 3), ("R", 1), ("NOBODY", 1)))
    assert short((await reserve(order))["A"]) == [("Q", 6, 5), ("R", 1, 0), ("NOBODY", 1, 0)]
    assert [await shop.stock(p) for p in "PQR"] == [(10, 0), (5, 0), (0, 0)]
    assert await shop.count("reservation") == 0


async def test_out_of_stock_states_product_requested_and_available(shop: Shop) -> None:
    await shop.add_stock(P=1)
    (order,) = await shop.instance(an_order("A", ("P", 2)))
    result = (await reserve(order))["A"]
    assert isinstance(result, OutOfStock)
    assert not result.retryable
    assert result.details()["shortages"] == [{"product_id": "P", "requested": 2, "available": 1}]
    assert result.shortages == (Shortage("P", 2, 1),)


async def test_what_others_hold_is_not_available(shop: Shop) -> None:
    await shop.add_stock(P=5)
    a, b = await shop.instance(an_order("A", ("P", 3)), an_order("B", ("P", 3)))
    await reserve(a)
    assert short((await reserve(b))["B"]) == [("P", 3, 2)]
    await release(a)
    assert isinstance((await reserve(b))["B"], ReservationResult)
    assert await shop.stock("P") == (5, 3)


async def test_a_batch_is_served_in_its_sequence(shop: Shop) -> None:
    """An order that is short takes no stock from later ones."""
    await shop.add_stock(P=5, Q=1)
    orders = await shop.instance(
        an_order("A", ("P", 3)),
        an_order("B", ("P", 3)),
        an_order("C", ("P", 2)),
        an_order("D", ("P", 1)),
        an_order("E", ("Q", 1)),
    )
    results = await reserve(*orders)
    assert list(results) == list("ABCDE")
    assert [isinstance(results[i], ReservationResult) for i in "ABCDE"] == [True, False, True, False, True]
    assert (short(results["B"]), short(results["D"])) == ([("P", 3, 2)], [("P", 1, 0)])
    assert (await shop.stock("P"), await shop.stock("Q")) == ((5, 5), (1, 1))
    assert await shop.wrong_stock() == []


async def test_a_second_reserve_finds_the_first(shop: Shop) -> None:
    await shop.add_stock(P=5)
    a, b = await shop.instance(an_order("A", ("P", 3)), an_order("B", ("P", 2)))
    first = (await reserve(a))["A"]
    again = await reserve(b, a)
    assert isinstance(first, ReservationResult)
    assert isinstance(again["A"], ReservationResult)
    assert again["A"].model_dump(include={"reservation_id", "total_items_reserved"}) == first.model_dump(
        include={"reservation_id", "total_items_reserved"}
    )
    assert isinstance(again["B"], ReservationResult)
    assert await shop.stock("P") == (5, 5)
    assert await shop.wrong_stock() == []


async def test_a_batch_of_nothing(shop: Shop) -> None:
    async with transaction() as tx:
        assert await embedded.reserve(tx, []) == {}
        assert await embedded.release(tx, []) == {}
        assert await reservations.ship(tx, []) == {}


async def test_a_transaction_that_fails_reserves_nothing(shop: Shop) -> None:
    await shop.add_stock(P=5)
    (order,) = await shop.instance(an_order("A", ("P", 3)))

    async def reserve_and_fail() -> None:
        async with transaction() as tx:
            assert isinstance((await embedded.reserve(tx, [order]))["A"], ReservationResult)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await reserve_and_fail()
    assert await shop.stock("P") == (5, 0)
    assert await shop.count("reservation") == 0


async def test_orders_whose_ids_look_alike_have_reservations_of_their_own(shop: Shop) -> None:
    ids = ["a b", "a-b", "a/b", "A-b", "a" * 200, "a" * 199, "字", "é"]
    await shop.add_stock(P=100)
    orders = await shop.instance(*(an_order(i) for i in ids))
    results = await reserve(*orders)
    assert all(isinstance(result, ReservationResult) for result in results.values())
    assert len({reservation_id(i) for i in ids}) == len(ids)
    assert await shop.stock("P") == (100, len(ids))


# -- releasing


async def test_releasing_gives_everything_back_once(shop: Shop) -> None:
    await shop.add_stock(P=10, Q=5)
    a, b = await shop.instance(an_order("A", ("P", 2), ("Q", 1)), an_order("B", ("P", 1)))
    await reserve(a, b)
    result = (await release(a))["A"]
    assert (result.compensation_status, result.released_reservation_id, result.released_items) == (
        "success",
        "RES-A",
        {"P": 2, "Q": 1},
    )
    assert (await shop.stock("P"), await shop.stock("Q")) == ((10, 1), (5, 0))
    again = (await release(a))["A"]
    assert (again.compensation_status, again.released_items) == ("no_reservation_to_release", {})
    assert (await shop.stock("P"), await shop.stock("Q")) == ((10, 1), (5, 0)), (
        "the second release takes nothing from others"
    )
    (row,) = await shop.rows("SELECT * FROM reservation WHERE order_id = 'A'")
    assert row.state == "released"
    assert row.ended_at is not None
    assert await shop.wrong_stock() == []


async def test_releasing_without_a_reservation(shop: Shop) -> None:
    await shop.add_stock(P=10)
    (order,) = await shop.instance(an_order("A", ("P", 20)))
    await reserve(order)
    assert (await release(order))["A"].compensation_status == "no_reservation_to_release"
    assert await shop.stock("P") == (10, 0)


async def test_what_was_released_can_be_reserved_again(shop: Shop) -> None:
    await shop.add_stock(P=10)
    (order,) = await shop.instance(an_order("A", ("P", 4)))
    for _ in range(2):
        await reserve(order)
        assert await shop.stock("P") == (10, 4)
        await release(order)
        assert await shop.stock("P") == (10, 0)
    await reserve(order)
    (row,) = await shop.rows("SELECT * FROM reservation")
    assert (row.state, row.ended_at) == ("held", None)
    assert await shop.wrong_stock() == []


# -- shipping


async def test_shipping_takes_it_off_the_shelf(shop: Shop) -> None:
    await shop.add_stock(P=10, Q=5)
    a, b = await shop.instance(an_order("A", ("P", 2), ("Q", 1)), an_order("B", ("P", 1)))
    await reserve(a, b)
    assert await ship(a) == {"A": {"P": 2, "Q": 1}}
    assert (await shop.stock("P"), await shop.stock("Q")) == ((8, 1), (4, 0))
    assert await shop.wrong_stock() == []
    again = await ship(a)
    assert isinstance(again["A"], ReservationLost)
    assert (await shop.stock("P"), await shop.stock("Q")) == ((8, 1), (4, 0)), "nothing leaves twice"
    assert (await release(a))["A"].compensation_status == "no_reservation_to_release"
    assert (await shop.stock("P"), await shop.stock("Q")) == ((8, 1), (4, 0)), (
        "what is shipped does not come back"
    )


async def test_what_is_not_held_cannot_be_shipped_and_does_not_hold_up_others(shop: Shop) -> None:
    await shop.add_stock(P=10)
    a, b, c = await shop.instance(an_order("A", ("P", 2)), an_order("B", ("P", 2)), an_order("C", ("P", 2)))
    await reserve(a, b)
    await release(b)
    shipped = await ship(a, b, c)
    assert shipped["A"] == {"P": 2}
    assert isinstance(shipped["B"], ReservationLost)
    assert isinstance(shipped["C"], ReservationLost)
    assert await shop.stock("P") == (8, 0)


async def test_stock_that_was_changed_by_hand_moves_nothing(shop: Shop) -> None:
    await shop.add_stock(P=10, Q=10)
    (order,) = await shop.instance(an_order("A", ("P", 2), ("Q", 2)))
    await reserve(order)
    await shop.rows("UPDATE product SET reserved = 1 WHERE id = 'P'")
    for act in (ship, release):
        with pytest.raises(RuntimeError, match="nothing was moved"):
            await act(order)
    assert (await shop.stock("P"), await shop.stock("Q")) == ((10, 1), (10, 2))
    assert await shop.value("SELECT state FROM reservation") == "held"


# -- expiry


async def reserved(shop: Shop, *orders: dict[str, Any]) -> list[OrderInstance]:
    """Orders that hold their stock, with the journal saying so."""
    instance = await shop.instance(*orders)
    results = await reserve(*instance)
    assert all(isinstance(result, ReservationResult) for result in results.values())
    await end(STEP, instance)
    return instance


async def run_out(shop: Shop, *ids: str) -> None:
    await shop.rows(
        "UPDATE reservation SET expires_at = now() - interval '1 second' "
        "WHERE order_id = ANY(CAST(:ids AS text[]))",
        ids=list(ids),
    )


async def test_only_dead_orders_reservations_expire(shop: Shop) -> None:
    await shop.add_stock(P=100)
    dead, alive, waiting, ended, in_time = "dead", "alive", "waiting", "ended", "in time"
    instance = await reserved(shop, *(an_order(i, ("P", 10)) for i in (dead, alive, waiting, ended, in_time)))
    await run_out(shop, dead, alive, waiting, ended)
    await shop.expire_leases()
    await shop.rows(
        "UPDATE customer_order SET lease_id = :lease WHERE id = :id", lease=await shop.lease(), id=alive
    )
    await shop.rows("UPDATE customer_order SET lease_id = NULL WHERE id = :id", id=waiting)
    await shop.rows(
        "UPDATE customer_order SET lease_id = NULL, outcome = 'needs_attention' WHERE id = :id", id=ended
    )
    assert sorted(await expire_reservations()) == [dead, ended, waiting]
    assert await shop.stock("P") == (100, 20)
    states = dict(await shop.rows("SELECT order_id, state FROM reservation"))
    assert states == {
        dead: "released",
        waiting: "released",
        ended: "released",
        alive: "held",
        in_time: "held",
    }
    assert await shop.wrong_stock() == []
    assert await expire_reservations() == []
    fences = dict(await shop.rows("SELECT id, fence FROM customer_order"))
    assert fences == {dead: 2, waiting: 2, ended: 1, alive: 1, in_time: 1}
    for order_id in (dead, waiting, ended):
        step = await shop.step(order_id, STEP)
        assert (step.undo_status, step.undo_due) == ("done", False)
        assert step.undo_result == {
            "compensation_status": "success",
            "expired": True,
            "released_items": {"P": 10},
        }
    assert (await shop.step(alive, STEP)).undo_due
    assert [order.id for order in instance if (await shop.order(order.id)).outcome is None] == [
        dead,
        alive,
        waiting,
        in_time,
    ]


async def test_a_worker_that_wakes_up_after_the_expiry_holds_nothing(shop: Shop) -> None:
    await shop.add_stock(P=10)
    (sleeper,) = await reserved(shop, an_order("A", ("P", 4)))
    await run_out(shop, "A")
    await shop.expire_leases()
    assert await expire_reservations() == ["A"]
    assert await ship(sleeper) == {}
    assert sleeper.lost
    assert await shop.stock("P") == (10, 0)


async def test_an_order_that_resumes_after_the_expiry_reserves_anew(shop: Shop) -> None:
    await shop.add_stock(P=10)
    (first,) = await reserved(shop, an_order("A", ("P", 4)))
    await begin("process_payment", [first])
    await run_out(shop, "A")
    await shop.expire_leases()
    await expire_reservations()
    (order,) = await shop.claim()
    assert (order.fence, order.takeovers) == (3, 0)
    assert not order.done(STEP)
    assert order.undo_plan() == ("process_payment",)
    assert isinstance((await reserve(order))["A"], ReservationResult)
    await end(STEP, [order])
    assert order.undo_plan() == (STEP, "process_payment"), "it began anew, after the payment"
    assert await shop.stock("P") == (10, 4)
    assert await ship(order) == {"A": {"P": 4}}
    assert await shop.stock("P") == (6, 0)


async def test_an_expired_reservation_that_another_order_took_meanwhile(shop: Shop) -> None:
    await shop.add_stock(P=5)
    await reserved(shop, an_order("A", ("P", 4)))
    await run_out(shop, "A")
    await shop.expire_leases()
    await expire_reservations()
    (b,) = await reserved(shop, an_order("B", ("P", 3)))
    (a,) = await shop.claim("A")
    assert short((await reserve(a))["A"]) == [("P", 4, 2)]
    assert await ship(b) == {"B": {"P": 3}}
    assert await shop.stock("P") == (2, 0)


async def test_an_order_that_is_being_written_about_is_alive(shop: Shop) -> None:
    await shop.add_stock(P=10)
    (order,) = await reserved(shop, an_order("A", ("P", 4)))
    await run_out(shop, "A")
    await shop.expire_leases()
    async with transaction() as tx:
        assert await journal.verify_ownership(tx, [order])
        async with asyncio.timeout(10):
            assert await expire_reservations() == []
        assert await reservations.ship(tx, ["A"]) == {"A": {"P": 4}}
    assert await expire_reservations() == []
    assert await shop.stock("P") == (6, 0)


async def test_expiry_resumes_where_it_stopped(shop: Shop) -> None:
    await shop.add_stock(P=100)
    ids = [f"{i}" for i in range(7)]
    await reserved(shop, *(an_order(i) for i in ids))
    await run_out(shop, *ids)
    await shop.expire_leases()
    done = [await expire_reservations(most=3) for _ in range(4)]
    assert [len(each) for each in done] == [3, 3, 1, 0]
    assert sorted(itertools.chain(*done)) == ids
    assert await shop.stock("P") == (100, 0)


async def test_many_expiring_at_once_release_once(shop: Shop) -> None:
    await shop.add_stock(P=100, Q=100)
    ids = [f"{i}" for i in range(20)]
    await reserved(shop, *(an_order(i, ("P", 1), ("Q", 2)) for i in ids))
    await run_out(shop, *ids)
    await shop.expire_leases()
    expired = list(itertools.chain(*await asyncio.gather(*(expire_reservations(most=5) for _ in range(12)))))
    assert Counter(expired).most_common(1)[0][1] == 1
    expired += await expire_reservations()
    assert sorted(expired) == sorted(ids)
    assert (await shop.stock("P"), await shop.stock("Q")) == ((100, 0), (100, 0))
    assert set(await shop.rows("SELECT fence FROM customer_order")) == {(2,)}


# -- at the same time


async def test_two_orders_for_the_last_piece(shop: Shop) -> None:
    await shop.add_stock(P=1)
    orders = await shop.instance(*(an_order(f"{i}") for i in range(10)))
    results = {
        i: result
        for each in await asyncio.gather(*(reserve(order) for order in orders))
        for i, result in each.items()
    }
    assert sum(isinstance(result, ReservationResult) for result in results.values()) == 1
    assert sum(isinstance(result, OutOfStock) for result in results.values()) == 9
    assert await shop.stock("P") == (1, 1)
    assert await shop.wrong_stock() == []


async def test_orders_with_the_same_products_in_any_sequence_do_not_wait_for_each_other(shop: Shop) -> None:
    """A deadlock would be an error here."""
    products = [f"P{i}" for i in range(12)]
    await shop.add_stock(**dict.fromkeys(products, 1_000))
    shuffled = [random.Random(i).sample(products, 12) for i in range(60)]
    orders = await shop.instance(
        *(an_order(f"{i}", *((p, 1) for p in sequence)) for i, sequence in enumerate(shuffled))
    )

    async def through(batch: Sequence[OrderInstance], last: Any) -> None:
        await reserve(*batch)
        await last(*batch)

    batches = [orders[i : i + 5] for i in range(0, 60, 5)]
    async with asyncio.timeout(30):
        await asyncio.gather(*(through(batch, (release, ship)[i % 2]) for i, batch in enumerate(batches)))
    assert set(await shop.rows("SELECT on_hand, reserved FROM product")) == {(970, 0)}
    assert await shop.wrong_stock() == []


_STOCK = text(
    "INSERT INTO product (id, name, received, on_hand) "
    "SELECT key, key, value::int, value::int FROM jsonb_each_text(CAST(:rows AS jsonb))"
)
PRODUCTS = ("P", "Q", "R")
_runs = itertools.count()

lines = st.lists(st.tuples(st.sampled_from(PRODUCTS), st.integers(1, 4)), min_size=1, max_size=4)
moves = st.lists(
    st.tuples(st.sampled_from(["reserve", "release", "ship", "reserve", "expire"]), st.integers(1, 7)),
    min_size=1,
    max_size=6,
)
workers = st.lists(st.tuples(st.lists(lines, min_size=1, max_size=3), moves), min_size=2, max_size=6)


@hypothesis_settings(
    deadline=None,
    max_examples=20,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
@given(stock=st.tuples(*(st.integers(0, 12) for _ in PRODUCTS)), plans=workers)
async def test_never_oversold_and_never_lost(
    shop: Shop, stock: tuple[int, ...], plans: list[tuple[Any, Any]]
) -> None:
    """Several workers, each with orders of its own, on the same three products: whatever they do at the same
    time, and while what they hold runs out under them,
    the books balance at every moment, and each order holds what the answers said."""
    run = next(_runs)
    pieces = {f"{p}{run}": n for p, n in zip(PRODUCTS, stock, strict=True)}
    crews: list[list[OrderInstance]] = []
    for w, (orders, _) in enumerate(plans):
        wanted = [
            an_order(f"{run}-{w}-{n}", *((f"{p}{run}", q) for p, q in each)) for n, each in enumerate(orders)
        ]
        crews.append(await shop.instance(*wanted))
    all_orders = [order for crew in crews for order in crew]
    async with transaction() as tx:
        await tx.execute(_STOCK, {"rows": as_json(pieces)})
    states: dict[str, str] = {}

    async def move(what: str, crew: list[OrderInstance]) -> None:
        if what == "expire":
            await shop.expire_leases(crew[0].id)
            await run_out(shop, crew[0].id)
            for order_id in await expire_reservations(most=2):
                states[order_id] = "released"
            return
        async with transaction() as tx:
            held = await journal.verify_ownership(tx, crew)
            # A shipped order is past the pivot: nothing is reserved for it again.
            open_ones = [order for order in held if states.get(order.id) != "shipped"]
            if what == "reserve":
                answers: Any = await embedded.reserve(tx, open_ones)
            elif what == "release":
                answers = await embedded.release(tx, open_ones)
            else:
                answers = await reservations.ship(tx, [order.id for order in open_ones])
        for order_id, answer in answers.items():
            if not isinstance(answer, StepError):
                states[order_id] = {"reserve": "held", "release": "released", "ship": "shipped"}[what]

    async def work(crew: list[OrderInstance], plan: list[tuple[str, int]]) -> None:
        for what, some in plan:
            chosen = [order for n, order in enumerate(crew) if some & (1 << n)] or crew
            await move(what, chosen)

    working = asyncio.gather(*(work(crew, plan) for crew, (_, plan) in zip(crews, plans, strict=True)))
    async with asyncio.timeout(30):
        while not working.done():
            assert await shop.wrong_stock() == []
        await working
    assert await shop.wrong_stock() == []
    recorded = dict(
        await shop.rows("SELECT order_id, state FROM reservation WHERE order_id LIKE :run", run=f"{run}-%")
    )
    lost = {order.id for order in all_orders if order.lost}
    assert {i: state for i, state in recorded.items() if i not in lost} == {
        i: state for i, state in states.items() if i in recorded and i not in lost
    }
    assert all(state == "released" for i, state in states.items() if i not in recorded)
    taken: Counter[str] = Counter()
    for order in all_orders:
        if recorded.get(order.id) in {"held", "shipped"}:
            taken.update(order.payload.wanted)
    assert all(taken[p] <= n for p, n in pieces.items()), "oversold"
    for product, n in pieces.items():
        on_hand, held_back = await shop.stock(product)
        shipped = sum(
            order.payload.wanted.get(product, 0)
            for order in all_orders
            if recorded.get(order.id) == "shipped"
        )
        assert (on_hand + shipped, on_hand - held_back) == (n, n - taken[product])
