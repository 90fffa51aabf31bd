"""What every inventory promises, whichever it is:
the same tests for the SQL inventory and for the service over real HTTP.

`shop.inventory.service.contract` is the contract.
Stock is asked of the tables behind it, past the code that is tested.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from saga.errors import StepError
from shop.inventory.errors import InventoryRefused, OutOfStock, ReservationLost, Shortage
from shop.inventory.service.client import ServiceInventory
from shop.inventory.service.contract import Inventory, State
from shop.inventory.service.database import DatabaseInventory
from tests.integration.domain import Shop
from tests.inventory_server import TOKEN, InventoryServer, inventory_server

pytest_plugins = ["tests.integration.domain_fixtures"]


@pytest.fixture(scope="session")
def server(domain_database: str) -> Iterator[InventoryServer]:
    with inventory_server(domain_database) as running:
        yield running


@pytest.fixture(params=["embedded", "remote"])
async def inventory(
    request: pytest.FixtureRequest, shop: Shop, domain_database: str
) -> AsyncIterator[Inventory]:
    if request.param == "embedded":
        here: Inventory = DatabaseInventory(domain_database)
    else:
        server: InventoryServer = request.getfixturevalue("server")
        here = ServiceInventory(server.url, TOKEN, timeout_seconds=10, concurrency=8)
    await shop.add_stock(P=10, Q=5, ONE=1)
    yield here
    await here.aclose()


async def reserve(inventory: Inventory, order_id: str = "A", seconds: float = 600, **items: int) -> State:
    return (await inventory.reserve(order_id, items or {"P": 2}, seconds=seconds)).state


async def expire(shop: Shop, database_url: str, *order_ids: str) -> None:
    for order_id in order_ids:
        await shop.rows(
            "UPDATE reservation SET expires_at = now() - interval '1 second' WHERE order_id = :id",
            id=order_id,
        )
    sweeping = DatabaseInventory(database_url)
    assert await sweeping.expire() == sorted(order_ids)
    await sweeping.aclose()


async def test_all_items_or_none(inventory: Inventory, shop: Shop) -> None:
    made = await inventory.reserve("A", {"P": 2, "Q": 5}, seconds=600)
    assert (made.order_id, made.id, made.state, made.items) == ("A", "RES-A", State.HELD, {"P": 2, "Q": 5})
    with pytest.raises(OutOfStock) as short:
        await inventory.reserve("B", {"P": 9, "Q": 1, "NOBODY": 3, "ONE": 1}, seconds=600)
    assert set(short.value.shortages) == {Shortage("P", 9, 8), Shortage("Q", 1, 0), Shortage("NOBODY", 3, 0)}
    assert await inventory.get("B") is None
    assert [await shop.stock(p) for p in ("P", "Q", "ONE")] == [(10, 2), (5, 5), (1, 0)]


async def test_the_last_piece_is_one_orders(inventory: Inventory, shop: Shop) -> None:
    ends = await asyncio.gather(
        *(reserve(inventory, f"O{i}", ONE=1) for i in range(12)), return_exceptions=True
    )
    assert Counter(type(end) for end in ends) == {State: 1, OutOfStock: 11}
    assert await shop.stock("ONE") == (1, 1)


async def test_the_same_order_at_the_same_time_has_its_pieces_once(inventory: Inventory, shop: Shop) -> None:
    assert await asyncio.gather(*(reserve(inventory, P=3) for _ in range(8))) == [State.HELD] * 8
    assert await shop.stock("P") == (10, 3)
    assert await asyncio.gather(*(inventory.commit("A") for _ in range(8)))
    assert await shop.stock("P") == (7, 0)
    assert await asyncio.gather(*(inventory.put_back("A") for _ in range(8)))
    assert await shop.stock("P") == (10, 0)


async def test_a_repeat_finds_the_first(inventory: Inventory, shop: Shop) -> None:
    first = await inventory.reserve("A", {"P": 2}, seconds=60)
    again = await inventory.reserve("A", {"P": 2}, seconds=600)
    assert again.expires_at > first.expires_at, "it is held for at least as long as was asked for last"
    assert (await inventory.reserve("A", {"P": 2}, seconds=1)).expires_at == again.expires_at
    assert await inventory.get("A") == again
    assert await shop.stock("P") == (10, 2)


async def test_other_items_under_the_same_order_are_refused(inventory: Inventory, shop: Shop) -> None:
    await reserve(inventory, P=2)
    with pytest.raises(InventoryRefused):
        await reserve(inventory, P=3)
    assert await shop.stock("P") == (10, 2)


async def test_release(inventory: Inventory, shop: Shop) -> None:
    await reserve(inventory)
    for _ in range(2):
        released = await inventory.release("A")
        assert (released.state, released.items) == (State.RELEASED, {"P": 2})
        assert await shop.stock("P") == (10, 0)


async def test_release_without_a_reservation(inventory: Inventory, shop: Shop) -> None:
    released = await inventory.release("A")
    assert (released.state, released.items) == (State.RELEASED, {})
    assert await shop.stock("P") == (10, 0)


@pytest.mark.parametrize("before", ["reserved", "nothing", "expired"])
@pytest.mark.parametrize("end", ["release", "put_back"])
async def test_what_arrives_after_the_end_does_nothing(
    inventory: Inventory, shop: Shop, domain_database: str, end: str, before: str
) -> None:
    """A worker has died with its request on the way, another has undone the order: then it arrives."""
    if before != "nothing":
        await reserve(inventory)
    if before == "expired":
        await expire(shop, domain_database, "A")
    freed = {"P": 2} if before == "reserved" else {}
    for _ in range(2):
        assert (await getattr(inventory, end)("A")).items == freed, "an expired reservation holds nothing"
    with pytest.raises(ReservationLost):
        await reserve(inventory)
    with pytest.raises(ReservationLost):
        await inventory.commit("A")
    await inventory.keep("A", seconds=600)
    assert await shop.stock("P") == (10, 0)
    assert (found := await inventory.get("A")) is not None
    assert found.state is State.RELEASED


async def test_commit(inventory: Inventory, shop: Shop) -> None:
    await reserve(inventory)
    for _ in range(2):
        committed = await inventory.commit("A")
        assert (committed.state, committed.items) == (State.SHIPPED, {"P": 2})
        assert await shop.stock("P") == (8, 0)
    assert await reserve(inventory) is State.SHIPPED, "a late repeat of the beginning finds the end"
    assert await shop.stock("P") == (8, 0)


async def test_commit_without_a_reservation(inventory: Inventory, shop: Shop) -> None:
    with pytest.raises(ReservationLost):
        await inventory.commit("A")
    assert await inventory.get("A") is None
    assert await shop.stock("P") == (10, 0)


async def test_what_is_shipped_does_not_run_out_and_is_not_released(
    inventory: Inventory, shop: Shop, domain_database: str
) -> None:
    await reserve(inventory)
    await inventory.commit("A")
    await shop.rows("UPDATE reservation SET expires_at = now() - interval '1 second'")
    await expire(shop, domain_database)
    assert (await inventory.release("A")).state is State.SHIPPED
    assert await shop.stock("P") == (8, 0)


async def test_commit_after_it_ran_out(inventory: Inventory, shop: Shop, domain_database: str) -> None:
    await reserve(inventory, P=10)
    await expire(shop, domain_database, "A")
    assert await shop.stock("P") == (10, 0)
    assert await reserve(inventory, "B", P=1) is State.HELD, "it is anybody's"
    with pytest.raises(ReservationLost):
        await inventory.commit("A")
    with pytest.raises(OutOfStock):
        await reserve(inventory, P=10)
    await inventory.release("B")
    assert await reserve(inventory, P=10) is State.HELD, "the order is not over: it may reserve anew"
    assert (await inventory.commit("A")).state is State.SHIPPED
    assert await shop.stock("P") == (0, 0)


async def test_keep(inventory: Inventory, shop: Shop, domain_database: str) -> None:
    await reserve(inventory, seconds=1)
    assert (kept := await inventory.keep("A", seconds=3600)) is not None
    assert await inventory.keep("A", seconds=1) == kept, "never for less"
    assert await inventory.keep("B", seconds=60) is None
    assert await shop.value("SELECT expires_at > now() + interval '50 minutes' FROM reservation")


async def test_put_back(inventory: Inventory, shop: Shop) -> None:
    await reserve(inventory)
    await inventory.commit("A")
    for _ in range(2):
        returned = await inventory.put_back("A")
        assert (returned.state, returned.items) == (State.RETURNED, {"P": 2})
        assert await shop.stock("P") == (10, 0)
    assert (await inventory.release("A")).state is State.RETURNED
    with pytest.raises(ReservationLost):
        await inventory.commit("A")
    with pytest.raises(ReservationLost):
        await reserve(inventory)
    assert await shop.stock("P") == (10, 0)


async def test_put_back_of_what_was_never_committed_gives_it_back(inventory: Inventory, shop: Shop) -> None:
    """The commit may still be on its way: it finds nothing any more."""
    await reserve(inventory)
    assert (await inventory.put_back("A")).state is State.RELEASED
    assert await shop.stock("P") == (10, 0)
    assert (await inventory.release("A")).items == {"P": 2}


@pytest.mark.parametrize(
    "order_id", ["a b", "a/b", "../x", "?q=1#f", "字", "e\u0301", "a" * 200, "O'Brien; --", "%2F"]
)
async def test_any_order_id(inventory: Inventory, shop: Shop, order_id: str) -> None:
    await reserve(inventory, order_id)
    assert (found := await inventory.get(order_id)) is not None
    assert (found.order_id, found.state) == (order_id, State.HELD)
    assert (await inventory.commit(order_id)).state is State.SHIPPED
    assert (await inventory.put_back(order_id)).state is State.RETURNED


_MOVES = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "release", "commit", "put_back", "keep", "expire"]), st.integers(0, 3)
    ),
    min_size=4,
    max_size=24,
)
_WANTED = [{"P": 4}, {"P": 7, "Q": 2}, {"Q": 4, "ONE": 1}, {"ONE": 1, "P": 3}]


@hypothesis_settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(moves=_MOVES, at_once=st.integers(1, 4))
async def test_never_oversold_and_the_sums_hold(
    inventory: Inventory, shop: Shop, domain_database: str, moves: list[tuple[str, int]], at_once: int
) -> None:
    await shop.rows("DELETE FROM reservation")
    await shop.rows("UPDATE product SET on_hand = received, reserved = 0")
    sweeping = DatabaseInventory(domain_database)

    async def move(what: str, which: int) -> None:
        order_id = f"O{which}"
        try:
            match what:
                case "reserve":
                    await inventory.reserve(order_id, _WANTED[which], seconds=600)
                case "expire":
                    await shop.rows(
                        "UPDATE reservation SET expires_at = now() - interval '1 s' WHERE order_id = :id",
                        id=order_id,
                    )
                    await sweeping.expire()
                case "keep":
                    await inventory.keep(order_id, seconds=60)
                case _:
                    await getattr(inventory, what)(order_id)
        except (OutOfStock, ReservationLost):
            pass

    over: set[str] = set()
    for i in range(0, len(moves), at_once):
        await asyncio.gather(*(move(*each) for each in moves[i : i + at_once]))
        assert await shop.wrong_stock() == []
        states = dict(await shop.rows("SELECT order_id, state FROM reservation"))
        assert all(states[order_id] in {"released", "returned"} for order_id in over), "over is over"
        over = {order_id for order_id, state in states.items() if state in {"released", "returned"}}
    await sweeping.aclose()


async def test_no_is_typed(inventory: Inventory) -> None:
    """Nothing comes out of an inventory but what its contract names."""
    with pytest.raises(StepError):
        await inventory.reserve("A", {"NOBODY": 1}, seconds=60)
