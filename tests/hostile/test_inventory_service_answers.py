"""An inventory service whose answers are wrong, each in one field: its stock,
our parcels and the money say whether it was believed."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import orjson
import pytest

from deployments.local.postgres import EmbeddedPostgres
from flows.process_pending_orders import process_pending_orders
from shop.inventory.catalogue import load_sample_catalogue
from shop.inventory.deliveries import read_delivery
from shop.inventory.service.connections import close_inventories
from shop.inventory.service.contract import State
from shop.inventory.service.wire import PROBLEM_JSON, Problem
from shop.orders import intake, report
from shop.orders.outcomes import Outcome
from shop.review.cancel import ask_to_cancel_sync
from shop.settings import settings
from tests.integration.world import World, an_order
from tests.inventory_server import MISSING, InventoryServer, Lie, inventory_server

PRODUCT, PRICE = "PROD-002", Decimal("29.99")
OTHERS = "0123456789abcdef/another-shops"
FIELDS: dict[str, tuple[Any, ...]] = {
    "order_id": (OTHERS, "", MISSING, None, 7, [], "x" * 50_000),
    "id": ("RES-another-shops", MISSING, None, 7, "x" * 50_000),
    "state": (*State, "sold", MISSING, None, 7),
    "items": ({}, {PRODUCT: 2}, {"LAST-ONE": 1}, {PRODUCT: 1, "LAST-ONE": 1}, {PRODUCT: 10**15},
              {PRODUCT: 10**18}, {PRODUCT: -1}, {PRODUCT: "many"}, {PRODUCT: 0}, MISSING, None, [PRODUCT],
              "x" * 50_000),
    "expires_at": ("2001-02-03T04:05:06Z", "9999-12-31T23:59:59Z", "soon", MISSING, None, -1),
}  # fmt: skip
"""What each field of a reservation may say instead."""
_numbers = itertools.count(1)


def lies(*paths: str, method: str = "POST") -> list[Lie]:
    return [
        Lie(path, field, value, method=method)
        for path in paths
        for field, values in FIELDS.items()
        for value in values
    ]


@pytest.fixture
def service(postgres: EmbeddedPostgres, template_database: str) -> Iterator[InventoryServer]:
    """On a database of its own, with enough of the product."""
    name = f"lying_stock_{next(_numbers)}"
    postgres.create_database(name, template=template_database)
    load_sample_catalogue(postgres.url(name))
    with inventory_server(postgres.url(name)) as server:
        delivery = read_delivery({"product_id": PRODUCT, "pieces": 10_000})
        server.do(server.inventory.receive([delivery], started_by="a test"))
        yield server
    postgres.drop_database(name)


@pytest.fixture
async def stocked(
    saga: World, service: InventoryServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    """The shop, with its stock at the service,
    which is not left alone because it talks nonsense about some orders."""
    wanted = {**service.settings, "INVENTORY_TIMEOUT_SECONDS": "10", "INVENTORY_BREAKER_FAILURES": "1000000"}
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    yield saga
    await close_inventories()


KINDS = {
    "good": lies("/reservations", "/commit"),
    "unshippable": lies("/release", "/put-back"),
    "cancelled": lies("/release", "/put-back"),
    "first answers lost": lies("/reservations", method="GET"),
}


@pytest.mark.parametrize("once", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind",
    [
        "good",
        "cancelled",
        pytest.param("unshippable", marks=pytest.mark.slow),
        pytest.param("first answers lost", marks=pytest.mark.slow),
    ],
)
@pytest.mark.short_form("good")
async def test_no_lie_ships_what_is_on_the_shelf_or_keeps_what_is_not_shipped(
    stocked: World, service: InventoryServer, unique: str, kind: str, once: bool
) -> None:
    """An order that cannot be clear comes to a person."""
    by_order = {f"{unique}-{number}": replace(lie, once=once) for number, lie in enumerate(KINDS[kind])}
    service.lies.update(by_order)
    if kind == "first answers lost":
        for order_id, path in itertools.product(by_order, ("/reservations", "/commit")):
            service.misbehave(path, "lost", after=True, order_id=order_id)
    country = "AQ" if kind == "unshippable" else "US"
    intake.submit(
        [an_order(order_id, product=PRODUCT, price=str(PRICE), country=country) for order_id in by_order]
    )
    await settle(stocked, list(by_order))
    if kind == "cancelled":
        for order_id in by_order:
            ask_to_cancel_sync(order_id, reason="changed their mind", requested_by="ann")
        await settle(stocked, list(by_order))
    ends = report.read(list(by_order))
    wrong = [
        f"{by_order[order_id]}: {why}"[:300]
        for order_id in by_order
        for why in judge(stocked, service, order_id, ends[order_id])
    ]
    assert not wrong, "\n".join(wrong)
    if kind in {"unshippable", "cancelled"} and not once:
        assert any(end.outcome is Outcome.NEEDS_ATTENTION for end in ends.values())
    (product,) = [each for each in service.do(service.inventory.stock()) if each.id == PRODUCT]
    assert product.is_sound


SHORTAGES = [
    [{"product_id": "LAST-ONE", "requested": 1, "available": 0}],
    [{"product_id": PRODUCT, "requested": 2, "available": 1}],
    [{"product_id": PRODUCT, "requested": 1, "available": 1}],
    [
        {"product_id": PRODUCT, "requested": 1, "available": 0},
        {"product_id": "x" * 50_000, "requested": 1, "available": 0},
    ],
]


async def test_no_order_is_refused_because_another_s_items_are_short(
    stocked: World, service: InventoryServer, unique: str
) -> None:
    short = {f"{unique}-{number}": shortages for number, shortages in enumerate(SHORTAGES)}
    for order_id, shortages in short.items():
        body = orjson.dumps({"type": Problem.OUT_OF_STOCK, "status": 409, "shortages": shortages})
        service.misbehave(
            "/reservations", "409", times=100, order_id=order_id, body=body, kind_of_body=PROBLEM_JSON
        )
    intake.submit([an_order(order_id, product=PRODUCT, price=str(PRICE)) for order_id in short])
    await settle(stocked, list(short))
    ends = report.read(list(short))
    assert not [order_id for order_id in short for _ in judge(stocked, service, order_id, ends[order_id])]
    assert {end.outcome for end in ends.values()} == {Outcome.COMPENSATED}
    assert all("other items than the requested ones" in end.reasons[0] for end in ends.values())


async def settle(saga: World, order_ids: list[str]) -> None:
    """Lets all orders end; postponed orders are due at once."""
    for _ in range(20):
        await process_pending_orders(consumer_seconds=0)
        open_ = saga.sql(
            "SELECT 1 FROM customer_order "
            "WHERE outcome IS NULL OR (cancel_requested_at IS NOT NULL AND outcome = 'completed')"
        )
        if not open_:
            return
        saga.sql("UPDATE customer_order SET not_before = NULL")
        saga.sql(
            "UPDATE order_step SET notes = notes || '{\"stock_away_since\": 1}' "
            "WHERE jsonb_exists(notes, 'stock_away_since')"
        )
    raise AssertionError(
        f"not ended: {[i for i, end in report.read(order_ids).items() if end.outcome is None]}"
    )


def judge(saga: World, service: InventoryServer, order_id: str, end: Any) -> Iterator[str]:
    """What is wrong with the order, by the service's own book, our parcels and the ledger."""
    there = service.do(service.inventory.get(service.name_of(order_id)))
    charged, refunded = saga.money(order_id)
    left = saga.sql("SELECT 1 FROM shipment WHERE order_id = :id AND returned_at IS NULL", id=order_id)
    being_returned = (
        end.outcome is Outcome.NEEDS_ATTENTION and saga.order(order_id).cancel_requested_at is not None
    )
    if left and being_returned:
        return  # a person finds out whether it came back; what can be undone is
    if left and (there is None or (there.state, there.items) != (State.SHIPPED, {PRODUCT: 1})):
        yield f"a parcel with pieces that are {there and there.state}"
    if left and charged - refunded != PRICE:
        yield f"a parcel for {charged - refunded}"
    if end.outcome is Outcome.COMPLETED and not left:
        yield "completed without a parcel"
    if end.outcome in {Outcome.COMPENSATED, Outcome.OUT_OF_STOCK}:
        if left or charged != refunded:
            yield f"undone, and {charged - refunded} kept, {len(left)} parcels"
        if there is not None and there.state in {State.HELD, State.SHIPPED}:
            yield f"undone, and its pieces are {there.state}"
    if end.outcome not in {Outcome.COMPLETED, Outcome.COMPENSATED, Outcome.NEEDS_ATTENTION}:
        yield f"it ended as {end.outcome}"
