"""The stock against what moved it. Each check is one statement, so one moment: orders under way do not disturb it."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sqlalchemy import text

from shop.database import transaction
from shop.reconciliation.discrepancy import Discrepancy, Kind

_PRODUCTS = text(
    """
    SELECT p.id, p.received, p.on_hand, p.reserved, coalesce(s.pieces, 0) AS shipped, coalesce(h.pieces, 0) AS held
    FROM product p
    LEFT JOIN (SELECT key AS id, sum(value::bigint)::bigint AS pieces FROM shipment, jsonb_each_text(items)
        WHERE returned_at IS NULL GROUP BY key) s ON s.id = p.id
    LEFT JOIN (
        SELECT key AS id, sum(value::bigint)::bigint AS pieces FROM reservation, jsonb_each_text(items) WHERE state = 'held' GROUP BY key
    ) h ON h.id = p.id
    WHERE p.on_hand + coalesce(s.pieces, 0) <> p.received OR p.reserved <> coalesce(h.pieces, 0) ORDER BY p.id
    """
)
# What needs attention keeps what it holds until a person has seen to it.
_HELD = text(
    "SELECT r.order_id, r.items, o.outcome FROM reservation r LEFT JOIN customer_order o ON o.id = r.order_id "
    "WHERE r.state = 'held' AND (o.id IS NULL OR (o.outcome IS NOT NULL AND o.outcome <> 'needs_attention')) ORDER BY r.order_id"
)
_SHIPPED = text(
    "SELECT s.order_id, s.tracking_number, o.outcome FROM shipment s LEFT JOIN customer_order o ON o.id = s.order_id "
    "WHERE s.returned_at IS NULL AND (o.id IS NULL OR o.outcome IN ('rejected', 'out_of_stock', 'compensated')) ORDER BY s.order_id"
)
_NOT_SHIPPED = text(
    "SELECT o.id AS order_id FROM customer_order o WHERE o.outcome = 'completed' "
    "AND NOT EXISTS (SELECT 1 FROM shipment s WHERE s.order_id = o.id) ORDER BY o.id"
)


async def check_stock() -> AsyncIterator[Discrepancy]:
    """Every product, reservation and shipment that does not fit the others. Only told: who counts the shelf decides."""
    async with transaction() as tx:
        async for row in await tx.stream(_PRODUCTS):
            if row.on_hand + row.shipped != row.received:
                ours, theirs = f"{row.on_hand} on hand", f"{row.received} received - {row.shipped} shipped = {row.received - row.shipped}"
                yield Discrepancy(Kind.STOCK_ON_HAND, ours, theirs, product_id=row.id)
            if row.reserved != row.held:
                yield Discrepancy(Kind.STOCK_RESERVED, f"{row.reserved} reserved", f"{row.held} held by orders", product_id=row.id)
        async for row in await tx.stream(_HELD):
            kind = Kind.RESERVATION_OF_ENDED_ORDER if row.outcome else Kind.RESERVATION_WITHOUT_ORDER
            yield Discrepancy(kind, row.outcome or "no such order", f"holds {_pieces(row.items)}", order_id=row.order_id)
        async for row in await tx.stream(_SHIPPED):
            kind = Kind.SHIPMENT_OF_UNCOMPLETED_ORDER if row.outcome else Kind.SHIPMENT_WITHOUT_ORDER
            yield Discrepancy(kind, row.outcome or "no such order", f"shipped as {row.tracking_number}", order_id=row.order_id)
        async for row in await tx.stream(_NOT_SHIPPED):
            yield Discrepancy(Kind.COMPLETED_WITHOUT_SHIPMENT, "completed", "no shipment", order_id=row.order_id)


def _pieces(items: dict[str, int]) -> str:
    return ", ".join(f"{pieces} x {product}" for product, pieces in sorted(items.items()))[:200]
