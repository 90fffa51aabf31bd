"""What could not be delivered, for people: refused for good, or tried again and again. The orders are not touched by it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, text

from saga.database import sync_engine, transaction
from shop.settings import settings

_MANY_ATTEMPTS = 3
_SHOWN_DAYS = 30
_UNDELIVERED = text(
    """
    SELECT order_id, kind, created_at AS since, attempts, error, refused_at IS NOT NULL AS refused,
        CASE WHEN refused_at IS NULL THEN next_attempt_at END AS next_try
    FROM outbox
    WHERE sent_at IS NULL AND error IS NOT NULL AND (refused_at IS NOT NULL OR attempts >= :many)
      AND created_at > now() - make_interval(days => :days)
    ORDER BY created_at DESC, id DESC LIMIT :most
    """
)
_AGAIN = text(
    "UPDATE outbox SET refused_at = NULL, next_attempt_at = now(), attempts = 0 WHERE sent_at IS NULL AND error IS NOT NULL "
    "AND (CAST(:ids AS text[]) IS NULL OR order_id = ANY(CAST(:ids AS text[])))"
)


class Undelivered(BaseModel):
    """A message that has not arrived."""

    model_config = ConfigDict(frozen=True)

    order_id: str
    kind: str
    """Of the mail; with `crm_` before it, the CRM's message about it."""
    since: datetime
    attempts: int
    error: str
    refused: bool
    """For good: nothing more happens unless somebody says so."""
    next_try: datetime | None


async def read_undelivered(most: int = 200) -> list[Undelivered]:
    """The newest first, of the last 30 days: what was refused, and what has failed at least three times."""
    async with transaction() as tx:
        return await tx.run_sync(_read, most)


def read_undelivered_sync(most: int = 200) -> list[Undelivered]:
    """The same, for callers without an event loop."""
    with sync_engine(settings().database_url).connect() as connection:
        return _read(connection, most)


async def send_again(*order_ids: str) -> int:
    """Makes due at once what of these orders (none: of all) has failed, refused or not. Returns how many messages that are. Twice is once:
    what was sent is not sent again."""
    async with transaction() as tx:
        return await tx.run_sync(_again, order_ids or None)


def send_again_sync(*order_ids: str) -> int:
    """The same, for callers without an event loop."""
    with sync_engine(settings().database_url).begin() as connection:
        return _again(connection, order_ids or None)


def _read(connection: Connection, most: int) -> list[Undelivered]:
    rows = connection.execute(_UNDELIVERED, {"most": most, "many": _MANY_ATTEMPTS, "days": _SHOWN_DAYS})
    return [Undelivered(**row) for row in rows.mappings()]


def _again(connection: Connection, order_ids: Sequence[str] | None) -> int:
    return connection.execute(_AGAIN, {"ids": list(order_ids) if order_ids is not None else None}).rowcount
