"""The stock and the sums of its movements, for reports, reconciliation and the inventory service's API."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from shop.inventory.service.contract import Pieces

# Shipped from this stock: the shop's own parcels, except those whose pieces came from an inventory service;
# and what was shipped through the inventory service on this database.
MOVED = """
    SELECT p.id, p.received, p.on_hand, p.reserved, coalesce(s.pieces, 0) + coalesce(v.pieces, 0) AS shipped,
        coalesce(v.pieces, 0) AS served, coalesce(h.pieces, 0) AS held, coalesce(d.pieces, 0) AS delivered
    FROM product p
    LEFT JOIN (
        SELECT key AS id, sum(value::bigint)::bigint AS pieces FROM shipment s, jsonb_each_text(items)
        WHERE returned_at IS NULL AND NOT EXISTS (SELECT 1 FROM order_step c
            WHERE c.order_id = s.order_id AND c.step = 'check_inventory'
            AND c.notes ->> 'inventory' IS NOT NULL)
        GROUP BY key
    ) s ON s.id = p.id
    LEFT JOIN (
        SELECT key AS id, sum(value::bigint)::bigint AS pieces FROM reservation, jsonb_each_text(items)
        WHERE state = 'shipped' AND at_service GROUP BY key
    ) v ON v.id = p.id
    LEFT JOIN (
        SELECT key AS id, sum(value::bigint)::bigint AS pieces FROM reservation, jsonb_each_text(items)
        WHERE state = 'held' GROUP BY key
    ) h ON h.id = p.id
    LEFT JOIN (
        SELECT key AS id, sum(value::bigint)::bigint AS pieces FROM delivery, jsonb_each_text(items)
        GROUP BY key
    ) d ON d.id = p.id
"""
STOCK = text(f"{MOVED} ORDER BY p.id")
# Shipped through the service for one shop's orders; without an installation id: for orders without one.
SHIPPED_FOR = text(
    "SELECT key AS product, sum(value::bigint)::bigint AS pieces FROM reservation, jsonb_each_text(items) "
    "WHERE state = 'shipped' AND at_service AND CASE WHEN CAST(:installation AS text) IS NULL THEN order_id "
    "!~ '^[0-9a-f]{16}(\\.[0-9]{1,2})?/' "
    "ELSE order_id ~ ('^' || :installation || '(\\.[0-9]{1,2})?/') END GROUP BY key"
)
HELD = text(
    "SELECT order_id, items, created_at, expires_at FROM reservation WHERE state = 'held' AND at_service "
    "ORDER BY order_id"
)


@dataclass(frozen=True, slots=True)
class ProductStock:
    """One product's stock and the sums of its movements, in pieces."""

    id: str
    received: Pieces
    on_hand: Pieces
    reserved: Pieces
    shipped: Pieces
    """Shipped and not returned."""
    served: Pieces
    """The part of `shipped` that was shipped through the inventory service."""
    held: Pieces
    """The sum of all held reservations."""
    delivered: Pieces | None = None
    """The sum of all recorded deliveries; None: the inventory service does not record them."""

    @property
    def is_sound(self) -> bool:
        """Whether the stock matches its movements."""
        return (
            self.on_hand + self.shipped == self.received and self.reserved == self.held and self.was_delivered
        )

    @property
    def was_delivered(self) -> bool:
        """Whether everything that was received is in a recorded delivery, as far as they are recorded."""
        return self.delivered is None or self.delivered == self.received


@dataclass(frozen=True, slots=True)
class Holding:
    """An order's held reservation at an inventory service."""

    order_id: str
    items: dict[str, Pieces]
    created_at: datetime
    expires_at: datetime
