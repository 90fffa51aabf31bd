"""Undelivered messages, for people: refused permanently, or failed repeatedly.
They do not affect the orders."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, text

from saga.database import sync_engine, transaction
from shop.settings import settings

_MANY_ATTEMPTS = 3
"""Attempts from which a failed message is shown."""
_SHOWN_DAYS = 30
"""Limits the age of shown messages, in days."""
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
    "UPDATE outbox SET refused_at = NULL, next_attempt_at = now(), attempts = 0 WHERE sent_at IS NULL "
    "AND error IS NOT NULL AND (CAST(:ids AS text[]) IS NULL OR order_id = ANY(CAST(:ids AS text[])))"
)


class Undelivered(BaseModel):
    """A message that could not be delivered."""

    model_config = ConfigDict(frozen=True)

    order_id: str
    kind: str
    """The kind of the mail; with the prefix `crm_`, that of the webhook."""
    since: datetime
    attempts: int
    error: str
    refused: bool
    """Whether it was refused permanently: it is not retried automatically."""
    next_try: datetime | None


async def read_undelivered(most: int = 200) -> list[Undelivered]:
    """Returns messages of the last 30 days that were refused or failed at least three times, newest first."""
    async with transaction() as tx:
        return await tx.run_sync(_read, most)


def read_undelivered_sync(most: int = 200) -> list[Undelivered]:
    """Like `read_undelivered`, for callers without an event loop."""
    with sync_engine(settings().database_url).connect() as connection:
        return _read(connection, most)


async def send_again(*order_ids: str) -> int:
    """Makes failed messages of these orders (none: of all) due now, including refused ones. Returns their
    number. Idempotent: does not resend what was sent."""
    async with transaction() as tx:
        return await tx.run_sync(_again, order_ids or None)


def send_again_sync(*order_ids: str) -> int:
    """Like `send_again`, for callers without an event loop."""
    with sync_engine(settings().database_url).begin() as connection:
        return _again(connection, order_ids or None)


def _read(connection: Connection, most: int) -> list[Undelivered]:
    rows = connection.execute(_UNDELIVERED, {"most": most, "many": _MANY_ATTEMPTS, "days": _SHOWN_DAYS})
    return [Undelivered(**row) for row in rows.mappings()]


def _again(connection: Connection, order_ids: Sequence[str] | None) -> int:
    return connection.execute(_AGAIN, {"ids": list(order_ids) if order_ids is not None else None}).rowcount
