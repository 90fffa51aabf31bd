"""What moved the stock, summed up: for the books, for reconciliation, and for the inventory service, which is
asked for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text

from shop.inventory.service.contract import Pieces

# What left this shelf: the shop's own parcels, except those whose pieces came from a service's; and what the
# service shipped from here.
MOVED = """
    SELECT p.id, p.received, p.on_hand, p.reserved, coalesce(s.pieces, 0) + coalesce(v.pieces, 0) AS shipped,
        coalesce(v.pieces, 0) AS served, coalesce(h.pieces, 0) AS held
    FROM product p
    LEFT JOIN (
        SELECT key AS id, sum(value::bigint)::bigint AS pieces FROM shipment s, jsonb_each_text(items)
        WHERE returned_at IS NULL AND NOT EXISTS (SELECT 1 FROM order_step c
            WHERE c.order_id = s.order_id AND c.step = 'check_inventory' AND c.notes ->> 'inventory' IS NOT NULL) GROUP BY key
    ) s ON s.id = p.id
    LEFT JOIN (
        SELECT key AS id, sum(value::bigint)::bigint AS pieces FROM reservation, jsonb_each_text(items)
        WHERE state = 'shipped' AND at_service GROUP BY key
    ) v ON v.id = p.id
    LEFT JOIN (
        SELECT key AS id, sum(value::bigint)::bigint AS pieces FROM reservation, jsonb_each_text(items) WHERE state = 'held' GROUP BY key
    ) h ON h.id = p.id
"""
STOCK = text(f"{MOVED} ORDER BY p.id")
# What left through the service, for one shop's orders; for those without an installation id, if none is
# given.
SHIPPED_FOR = text(
    "SELECT key AS product, sum(value::bigint)::bigint AS pieces FROM reservation, jsonb_each_text(items) "
    "WHERE state = 'shipped' AND at_service AND CASE WHEN CAST(:installation AS text) IS NULL THEN order_id "
    "!~ '^[0-9a-f]{16}/' "
    "ELSE starts_with(order_id, :installation || '/') END GROUP BY key"
)
HELD = text(
    "SELECT order_id, items, created_at, expires_at FROM reservation WHERE state = 'held' AND at_service "
    "ORDER BY order_id"
)


@dataclass(frozen=True, slots=True)
class ProductStock:
    """One product's stock, and what its movements add up to; pieces."""

    id: str
    received: Pieces
    on_hand: Pieces
    reserved: Pieces
    shipped: Pieces
    """All that left the shelf and did not come back."""
    served: Pieces
    """What of it left through the inventory service."""
    held: Pieces
    """What the reservations that are held add up to."""

    @property
    def is_sound(self) -> bool:
        """Whether the stock is what moved it."""
        return self.on_hand + self.shipped == self.received and self.reserved == self.held


@dataclass(frozen=True, slots=True)
class Holding:
    """Who holds what at an inventory service."""

    order_id: str
    items: dict[str, Pieces]
    created_at: datetime
    expires_at: datetime


def read_stock(rows: Sequence[Any]) -> list[ProductStock]:
    """Of `STOCK`."""
    return [ProductStock(**row._mapping) for row in rows]


def read_holdings(rows: Sequence[Any]) -> list[Holding]:
    """Of `HELD`."""
    return [Holding(**row._mapping) for row in rows]
