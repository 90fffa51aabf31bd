"""Compares the stock with its movements, each check in one statement, undisturbed by current orders."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator

from sqlalchemy import text

from saga.database import transaction
from shop.inventory.ledger import MOVED, ProductStock
from shop.inventory.service.books import read_service_books
from shop.reconciliation.discrepancy import Discrepancy, Kind

_PRODUCTS = text(
    f"SELECT * FROM ({MOVED}) moved WHERE on_hand + shipped <> received OR reserved <> held "  # noqa: S608  (constants)
    "OR delivered <> received ORDER BY id"
)
# An order under manual review keeps what it holds until a person decides.
_HELD = text(
    "SELECT r.order_id, r.items, o.outcome "
    "FROM reservation r LEFT JOIN customer_order o ON o.id = r.order_id "
    "WHERE r.state = 'held' AND NOT r.at_service "
    "AND (o.id IS NULL OR (o.outcome IS NOT NULL AND o.outcome <> 'needs_attention')) ORDER BY r.order_id"
)
_SHIPPED = text(
    "SELECT s.order_id, s.tracking_number, o.outcome "
    "FROM shipment s LEFT JOIN customer_order o ON o.id = s.order_id WHERE s.returned_at IS NULL "
    "AND (o.id IS NULL OR o.outcome IN ('rejected', 'out_of_stock', 'compensated')) ORDER BY s.order_id"
)
_NOT_SHIPPED = text(
    "SELECT o.id AS order_id FROM customer_order o WHERE o.outcome = 'completed' "
    "AND NOT EXISTS (SELECT 1 FROM shipment s WHERE s.order_id = o.id AND s.returned_at IS NULL) "
    "AND EXISTS (SELECT 1 FROM jsonb_array_elements(o.content -> 'items') i "
    "WHERE i -> 'digital' IS DISTINCT FROM 'true') ORDER BY o.id"
)


async def check_stock() -> AsyncIterator[Discrepancy]:
    """Yields every product, reservation and shipment that does not fit. Repairs need a count of the shelf."""
    async with transaction(seconds=math.inf) as tx:  # includes the caller's time between rows
        async for row in await tx.stream(_PRODUCTS):
            for discrepancy in _of_product(ProductStock(**row._mapping)):
                yield discrepancy
        async for row in await tx.stream(_HELD):
            kind = Kind.RESERVATION_OF_ENDED_ORDER if row.outcome else Kind.RESERVATION_WITHOUT_ORDER
            yield Discrepancy(
                kind, row.outcome or "no such order", f"holds {_pieces(row.items)}", order_id=row.order_id
            )
        async for row in await tx.stream(_SHIPPED):
            kind = Kind.SHIPMENT_OF_UNCOMPLETED_ORDER if row.outcome else Kind.SHIPMENT_WITHOUT_ORDER
            yield Discrepancy(
                kind,
                row.outcome or "no such order",
                f"shipped as {row.tracking_number}",
                order_id=row.order_id,
            )
        async for row in await tx.stream(_NOT_SHIPPED):
            yield Discrepancy(
                Kind.COMPLETED_WITHOUT_SHIPMENT, "completed", "no shipment", order_id=row.order_id
            )
    async for discrepancy in _at_services():
        yield discrepancy


async def _at_services() -> AsyncIterator[Discrepancy]:
    """Yields what does not fit at inventory services. A service answers for another moment than our
    tables, so what was shipped is compared only while no order is in progress there."""
    for book in await read_service_books():
        if book.problem is not None:
            yield Discrepancy(
                Kind.INVENTORY_SERVICE_SILENT, "orders have their stock there", f"{book.url}: {book.problem}"
            )
            continue
        for product in book.stock:
            for discrepancy in _of_product(product, book.url):
                yield discrepancy
        for product_id, (ours_shipped, theirs_shipped) in (
            book.wrong_shipped().items() if book.at_rest else ()
        ):
            ours, theirs = f"{ours_shipped} shipped", f"{theirs_shipped} shipped by the inventory service"
            yield Discrepancy(Kind.STOCK_ON_HAND, ours, theirs, product_id=product_id, remark=book.url)
        for holding, outcome in book.held_by_ended:
            kind = Kind.RESERVATION_OF_ENDED_ORDER if outcome else Kind.RESERVATION_WITHOUT_ORDER
            held = f"holds {_pieces(holding.items)}"
            yield Discrepancy(
                kind, outcome or "no such order", held, order_id=holding.order_id, remark=book.url
            )


def _of_product(stock: ProductStock, service: str | None = None) -> Iterator[Discrepancy]:
    """Yields how the stock of one product differs from its movements. `service`: the address of the inventory
    service that has it."""
    left = stock.received - stock.shipped
    for kind, agrees, ours, theirs in (
        (
            Kind.STOCK_ON_HAND,
            stock.on_hand == left,
            f"{stock.on_hand} on hand",
            f"{stock.received} received - {stock.shipped} shipped = {left}",
        ),
        (
            Kind.STOCK_RESERVED,
            stock.reserved == stock.held,
            f"{stock.reserved} reserved",
            f"{stock.held} held by orders",
        ),
        (
            Kind.STOCK_RECEIVED,
            stock.was_delivered,
            f"{stock.received} received",
            f"{stock.delivered} in recorded deliveries",
        ),
    ):
        if not agrees:
            yield Discrepancy(kind, ours, theirs, product_id=stock.id, remark=service)


def _pieces(items: dict[str, int]) -> str:
    return ", ".join(f"{pieces} x {product}" for product, pieces in sorted(items.items()))[:200]
