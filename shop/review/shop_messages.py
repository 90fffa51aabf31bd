"""Remembers the newest message of a shop about each order, also about one that is not stored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from shop.text.card_numbers import cut

_LOCK = text(
    "INSERT INTO shop_message (order_id) VALUES (:id) "
    "ON CONFLICT (order_id) DO UPDATE SET order_id = excluded.order_id RETURNING newest_at, closed"
)
_REMEMBER = text(
    "UPDATE shop_message SET newest_at = greatest(newest_at, :at), closed = :closed WHERE order_id = :id"
)
_CLOSE = text(
    "UPDATE shop_message SET newest_at = greatest(newest_at, coalesce(:at, now())), closed = :closed "
    "WHERE order_id = :id"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is remembered of the messages about an order."""

    newest_at: datetime | None
    closed: str | None
    """Why the order, which is not stored, is not taken from older messages."""

    def is_newer(self, at: datetime | None) -> bool:
        """Returns whether a newer message than one of this time was taken."""
        return self.newest_at is not None and at is not None and at < self.newest_at

    def has_closed(self, at: datetime | None) -> bool:
        """Returns whether an order that is not stored was cancelled or deleted after a message of this
        time."""
        if self.closed is None:
            return False
        return at is None or self.newest_at is None or at <= self.newest_at


def lock_seen(connection: Connection, order_id: str) -> Seen:
    """Returns what is remembered. Until the transaction ends, other messages about the order wait."""
    row = connection.execute(_LOCK, {"id": order_id}).one()
    return Seen(row.newest_at, row.closed)


def remember(connection: Connection, order_id: str, at: datetime | None) -> None:
    """Remembers a message about an order that is stored."""
    connection.execute(_REMEMBER, {"id": order_id, "at": at, "closed": None})


def close(connection: Connection, order_id: str, at: datetime | None, reason: str) -> None:
    """Remembers that an order which is not stored was cancelled or deleted: then (None: now)."""
    connection.execute(_CLOSE, {"id": order_id, "at": at, "closed": cut(reason, 200)})
