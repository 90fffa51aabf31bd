"""A batch whose orders have their stock at different places:
each adapter gets its part, and the caller sees one batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event

from saga.database import engine, sync_engine, transaction
from saga.instance import Entry
from shop.inventory import stock
from shop.inventory.port import STEP, ReleaseResult, ReservationResult
from shop.orders.order import OrderInstance
from shop.settings import settings
from shop.shipping.carriers import STEP as SHIPPING
from tests.integration.domain import Shop, an_order

pytest_plugins = ["tests.integration.domain_fixtures"]
URL = "http://stock.example"


async def mixed(shop: Shop) -> list[OrderInstance]:
    """B has its stock at a service; A and C have theirs in our tables."""
    await shop.add_stock(P=10)
    orders = await shop.instance(an_order("A", ("P", 1)), an_order("B", ("P", 2)), an_order("C", ("P", 3)))
    orders[1].journal[STEP] = Entry(STEP, "begun", notes={"inventory": URL, "released": {"P": 2}})
    orders[1].journal[SHIPPING] = Entry(SHIPPING, "begun", notes={"taken": True, "put_back": {"P": 2}})
    return orders


@contextmanager
def counting() -> Iterator[list[str]]:
    """The statements that are sent meanwhile."""
    sent: list[str] = []

    def count(*arguments: object) -> None:
        sent.append(str(arguments[2]))

    event.listen(engine().sync_engine, "before_cursor_execute", count)
    try:
        yield sent
    finally:
        event.remove(engine().sync_engine, "before_cursor_execute", count)


async def test_each_adapter_gets_its_part_of_a_batch(shop: Shop) -> None:
    orders = await mixed(shop)
    async with transaction() as tx:
        reserved = await stock.reserve(tx, orders)
        assert list(reserved) == ["A", "B", "C"]
        assert all(isinstance(result, ReservationResult) for result in reserved.values())
    assert await shop.stock("P") == (10, 4), "B's pieces are at the service"
    async with transaction() as tx:
        shipped = await stock.ship(tx, orders)
        assert shipped == {"A": {"P": 1}, "B": {"P": 2}, "C": {"P": 3}}
    assert await shop.stock("P") == (6, 0)
    async with transaction() as tx:
        back = await stock.put_back(tx, orders, {"A": {"P": 1}})
        assert back == {"A": {"P": 1}, "B": {"P": 2}}
    assert await shop.stock("P") == (7, 0)
    assert [row.order_id for row in await shop.rows("SELECT order_id FROM reservation ORDER BY 1")] == [
        "A",
        "C",
    ]


async def test_a_release_returns_what_each_adapter_released(shop: Shop) -> None:
    orders = await mixed(shop)
    async with transaction() as tx:
        await stock.reserve(tx, orders[:1])
        released = await stock.release(tx, orders)
    assert {i: (result.compensation_status, result.released_items) for i, result in released.items()} == {
        "A": ("success", {"P": 1}),
        "B": ("success", {"P": 2}),
        "C": ("no_reservation_to_release", {}),
    }
    assert all(isinstance(result, ReleaseResult) for result in released.values())


async def test_only_the_service_s_orders_have_an_external_part(shop: Shop) -> None:
    a, b, c = await mixed(shop)
    for before in (stock.before_reserve, stock.before_release, stock.before_ship, stock.before_put_back):
        assert before([a, c]) is None
        action = before([a, b])
        assert action is not None
        assert await action(a) == {}


async def test_new_orders_reserve_where_the_settings_say(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    a, _, _ = await mixed(shop)
    assert stock.before_reserve([a]) is None
    chosen = settings().with_values(INVENTORY_SERVICE_URL=URL)
    monkeypatch.setattr("shop.inventory.service.order_stock.settings", lambda: chosen)
    assert stock.before_reserve([a]) is not None
    assert stock.before_release([a]) is None, "what is begun stays where it is"


async def test_the_number_of_statements_does_not_depend_on_the_number_of_orders(shop: Shop) -> None:
    await shop.add_stock(P=100)
    orders = await shop.instance(*(an_order(f"N{number}", ("P", 1)) for number in range(20)))
    async with transaction() as tx:
        with counting() as one:
            await stock.reserve(tx, orders[:1])
        with counting() as many:
            await stock.reserve(tx, orders[1:])
    assert len(many) == len(one) == 4


async def test_what_an_order_holds_is_known_without_asking_a_service(shop: Shop) -> None:
    a, _, _ = await mixed(shop)
    async with transaction() as tx:
        await stock.reserve(tx, [a])
    result = '{"reserved_items": [{"product_id": "P", "quantity": 2}]}'
    await shop.rows(
        "INSERT INTO order_step (order_id, step, status, notes, result) "
        "VALUES ('B', 'check_inventory', 'done', "
        "jsonb_build_object('inventory', CAST(:url AS text)), CAST(:result AS jsonb))",
        url=URL,
        result=result,
    )
    with sync_engine(settings().database_url).connect() as connection:
        assert [stock.held_pieces(connection, i) for i in "ABC"] == [{"P": 1}, {"P": 2}, {}]
