"""Goods that arrive: in stock once, in the books, from every way in. Checked against the table of products
and the results of books and reconciliation."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from deployments.cli import order_saga
from flows.process_order import process_order
from flows.receive_goods import receive_goods
from shop.inventory.deliveries import DeliveryNote, DeliveryReceipt, read_delivery
from shop.inventory.errors import (
    DeliveriesNotRecorded,
    DeliveryConflict,
    InvalidDelivery,
    InventoryMisconfigured,
    InventoryUnavailable,
    UnknownProducts,
)
from shop.inventory.service.connections import service
from shop.inventory.stock import receive
from shop.orders.outcomes import Outcome
from shop.reconciliation.books import read_books
from shop.reconciliation.discrepancy import Kind
from shop.reconciliation.stock import check_stock
from shop.settings import settings
from tests.integration.domain import Shop
from tests.integration.world import World, an_order
from tests.inventory_server import InventoryServer, inventory_server

pytest_plugins = ["tests.integration.domain_fixtures"]


def delivery(
    reference: str | None = "DN-1", product: str = "P", pieces: Any = 5, **more: Any
) -> DeliveryNote:
    return read_delivery({"reference": reference, "product_id": product, "pieces": pieces, **more})


async def record(*deliveries: DeliveryNote) -> list[DeliveryReceipt]:
    return await receive(deliveries, started_by="a test")


async def levels(shop: Shop) -> dict[str, tuple[int, int, int]]:
    """(received, on hand, in recorded deliveries) by product."""
    rows = await shop.rows(
        "SELECT id, received, on_hand, "
        "coalesce((SELECT sum((items ->> p.id)::bigint) FROM delivery), 0) AS sum FROM product p"
    )
    return {row.id: (row.received, row.on_hand, int(row.sum)) for row in rows}


async def test_goods_are_in_stock_once_however_often_they_are_sent(shop: Shop) -> None:
    await shop.add_stock(P=3)
    (first,), (again,) = await record(delivery()), await record(delivery(note="sent again"))
    assert (first.status, again.status) == ("received", "known")
    assert [(item.product_id, item.pieces, item.on_hand) for item in first.items] == [("P", 5, 8)]
    assert await levels(shop) == {"P": (8, 8, 8)}
    assert await shop.wrong_stock() == []


async def test_many_senders_at_once_receive_it_once(shop: Shop) -> None:
    await shop.add_stock(P=0, Q=0)
    both = read_delivery(
        {"reference": "DN-2", "items": [{"product_id": "Q", "pieces": 2}, {"product_id": "P", "pieces": 3}]}
    )
    receipts = await asyncio.gather(
        *(record(both, delivery(f"DN-{i}", "P", 1)) for i in (3, 4) for _ in range(6))
    )
    assert Counter(each.status for pair in receipts for each in pair) == {"received": 3, "known": 21}
    assert await levels(shop) == {"P": (5, 5, 5), "Q": (2, 2, 2)}


async def test_a_reference_with_other_goods_is_refused(shop: Shop) -> None:
    await shop.add_stock(P=3, Q=1)
    await record(delivery())
    for other in (delivery(pieces=6), delivery(product="Q")):
        with pytest.raises(DeliveryConflict) as refused:
            await record(delivery("DN-NEW", "Q", 1), other)
        assert refused.value.received == {"DN-1": {"P": 5}}
    with pytest.raises(DeliveryConflict):
        await record(delivery("DN-9"), delivery("DN-9", pieces=7))
    assert await levels(shop) == {"P": (8, 8, 8), "Q": (1, 1, 1)}, "all deliveries of a call or none"


async def test_a_new_product_needs_a_name(shop: Shop) -> None:
    await shop.add_stock(P=1)
    with pytest.raises(UnknownProducts) as unknown:
        await record(delivery(), delivery("DN-2", "NEW-B"), delivery("DN-3", "NEW-A"))
    assert unknown.value.product_ids == ("NEW-A", "NEW-B")
    assert await levels(shop) == {"P": (1, 1, 1)}
    await record(delivery("DN-2", "NEW-A", 4, name="Pen"), delivery("DN-3", "P", 1, name="Another name"))
    assert await levels(shop) == {"P": (2, 2, 2), "NEW-A": (4, 4, 4)}
    assert dict(await shop.rows("SELECT id, name FROM product")) == {"P": "P", "NEW-A": "Pen"}


async def test_a_delivery_without_a_reference_gets_one_of_its_own(shop: Shop) -> None:
    await shop.add_stock(P=0)
    receipts = [(await record(delivery(reference)))[0] for reference in (None, "", None)]
    assert len({receipt.reference for receipt in receipts}) == 3
    assert await levels(shop) == {"P": (15, 15, 15)}


def test_every_problem_of_a_delivery_is_named() -> None:
    with pytest.raises(InvalidDelivery) as invalid:
        delivery("a\u200bb", " ", 0, note="4242 4242 4242 4242", color="red")
    assert {place for place, _ in invalid.value.problems} == {
        ("reference",),
        ("product_id",),
        ("pieces",),
        ("note",),
        ("color",),
    }
    assert "4242" not in str(invalid.value)
    for pieces in (-1, "x", 1.5, True, 10**9 + 1, None):
        with pytest.raises(InvalidDelivery):
            delivery(pieces=pieces)
    with pytest.raises(InvalidDelivery) as nested:
        read_delivery({"items": [{"product_id": "P", "pieces": 1}, {"product_id": "Q"}]})
    assert [place for place, _ in nested.value.problems] == [("items", 1, "pieces")]


async def test_stock_without_a_delivery_is_found(shop: Shop) -> None:
    await shop.add_stock(P=3)
    assert read_books(settings().database_url, None).balanced
    await shop.rows("UPDATE product SET received = received + 1, on_hand = on_hand + 1")
    assert [(found.kind, found.product_id) async for found in check_stock()] == [(Kind.STOCK_RECEIVED, "P")]
    assert not read_books(settings().database_url, None).balanced


async def test_an_order_that_was_short_ships_after_goods_arrived(saga: World, unique: str) -> None:
    short, later = f"SHORT-{unique}", f"LATER-{unique}"
    await process_order(an_order(short, product="OUT-OF-STOCK"), return_state=True)
    assert saga.order(short).outcome == Outcome.OUT_OF_STOCK
    state = await receive_goods("OUT-OF-STOCK", 2, "DN-7", "ann", return_state=True)
    assert state.name == "Received"
    again = await receive_goods("OUT-OF-STOCK", 2, "DN-7", "bob", return_state=True)
    assert again.name == "Known"
    await process_order(an_order(later, product="OUT-OF-STOCK"), return_state=True)
    assert saga.stock("OUT-OF-STOCK") == (1, 0)
    assert saga.shipments(later) == 1
    assert saga.sql("SELECT received_by FROM delivery WHERE reference = 'DN-7'") == [("ann",)]
    saga.assert_books_balance()


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(order_saga, ["receive", *arguments])


async def test_the_command_receives_products_and_files(
    saga: World, tmp_path: Path, unique: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await process_order(an_order(unique, product="OUT-OF-STOCK"), return_state=True)
    assert await run("OUT-OF-STOCK", "3", "--reference", "DN-1", "--by", "ann") == 0
    assert "1 order of the last 30 days" in capsys.readouterr().out
    assert await run("OUT-OF-STOCK", "3", "--reference", "DN-1") == 0
    assert await run("OUT-OF-STOCK", "4", "--reference", "DN-1") == 1
    assert await run("NOBODY", "4") == 1
    assert await run("NEW", "4", "--name", "Pen", "--json") == 0
    *_, printed = capsys.readouterr().out.splitlines()
    assert json.loads(printed)["items"] == [{"product_id": "NEW", "pieces": 4, "on_hand": 4, "reserved": 0}]
    for wrong in ((), ("PROD-001",), ("PROD-001", "none"), ("PROD-001", "-3"), ("P", "1", "--file", "x")):
        assert await run(*wrong) == 2, wrong

    table, lines, broken = (tmp_path / name for name in ("notes.csv", "notes.ndjson", "broken.csv"))
    table.write_text(
        "reference,product_id,pieces,name\nDN-2,PROD-001,10,\nDN-2,PEN-2,20,Blue pen\nDN-3,PROD-002,1,\n"
    )
    lines.write_text(
        '{"reference": "DN-4", "items": [{"product_id": "PROD-001", "pieces": 1}]}\n'
        '{"reference": "DN-3", "product_id": "PROD-002", "pieces": 1}\n'
    )
    broken.write_text("reference,product_id,pieces\nDN-5,PROD-001,1\nDN-6,PROD-001,few\nDN-7,,2\n")
    for _ in range(2):
        assert await run("--file", str(table), "--by", "ann") == 0
        assert await run("--file", str(lines)) == 0
    assert await run("--file", str(broken)) == 2
    output = capsys.readouterr().out
    assert "line 3: pieces" in output
    assert "line 4: product_id" in output
    assert {p: saga.stock(p)[0] for p in ("PROD-001", "PROD-002", "PEN-2", "OUT-OF-STOCK", "NEW")} == {
        "PROD-001": 111,
        "PROD-002": 51,
        "PEN-2": 20,
        "OUT-OF-STOCK": 3,
        "NEW": 4,
    }
    saga.assert_books_balance()


@pytest.fixture
def remote(saga: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The shop's own database also serves as the inventory service's."""
    with inventory_server(saga.database_url) as server:
        for name, value in {**server.settings, "INVENTORY_TIMEOUT_SECONDS": "1"}.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()
        yield server


async def test_an_inventory_service_receives_the_goods(saga: World, remote: InventoryServer) -> None:
    (first,) = await record(delivery(product="PROD-001"))
    (again,) = await record(delivery(product="PROD-001"))
    assert (first.status, again.status, first.items[0].on_hand) == ("received", "known", 105)
    with pytest.raises(DeliveryConflict) as conflict:
        await record(delivery(product="PROD-001", pieces=6))
    assert conflict.value.received == {"DN-1": {"PROD-001": 5}}
    with pytest.raises(UnknownProducts) as unknown:
        await record(delivery("DN-2", "NEW"))
    assert unknown.value.product_ids == ("NEW",)
    assert saga.stock("PROD-001") == (105, 0)
    assert saga.sql("SELECT started_by FROM delivery WHERE reference = 'DN-1'") == [("a test",)]


async def test_a_lost_answer_of_the_service_is_safe_to_repeat(saga: World, remote: InventoryServer) -> None:
    remote.misbehave("/v1/deliveries", "lost", after=True)
    with pytest.raises(InventoryUnavailable):
        await record(delivery(product="PROD-001"))
    (again,) = await record(delivery(product="PROD-001"))
    assert again.status == "known"
    assert saga.stock("PROD-001") == (105, 0)


async def test_a_service_that_records_no_deliveries_is_reported(
    saga: World, remote: InventoryServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    remote.misbehave("/v1/deliveries", "404", times=2)
    with pytest.raises(DeliveriesNotRecorded):
        await record(delivery(product="PROD-001"))
    assert await run("PROD-001", "5") == 1
    assert remote.url in capsys.readouterr().out
    monkeypatch.setenv("INVENTORY_SERVICE_TOKEN", "another-token")
    settings.cache_clear()
    at = service(remote.url)
    with pytest.raises(InventoryMisconfigured):
        await at.receive([delivery(product="PROD-001")], started_by="a test")
    await at.aclose()
    assert saga.stock("PROD-001") == (100, 0)
