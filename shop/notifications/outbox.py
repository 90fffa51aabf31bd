"""Outbox: messages are committed with the effect that causes them, and sent afterwards, with retries until
they are sent. People see those that were refused permanently, or failed repeatedly; they do not affect the
orders.

Delivery is at least once: if the process dies, or gets no answer, after the receiver accepted the message, it
is sent again. A mail's Message-ID and file name, and a webhook's id, are derived from order, try and kind, so
that receivers can deduplicate them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Connection, text

from saga.database import Tx, as_json, sync_engine, transaction
from saga.failpoints import failpoint
from shop.notifications.delivery_log import DeliveryLog
from shop.notifications.senders import SENDING_SECONDS, max_batch_seconds, send
from shop.notifications.stored import CONFIRMATION_STEP
from shop.settings import settings


@dataclass(frozen=True, slots=True)
class Message:
    """A message to send."""

    order_id: str
    kind: str
    """A `Kind` for a mail, or its `crm_kind` for a webhook."""
    payload: dict[str, Any]
    try_number: int = 1
    """The order's try that causes it."""


_PUT = text(
    "INSERT INTO outbox (order_id, kind, payload, try_number) SELECT * FROM "
    "jsonb_to_recordset(CAST(:rows AS jsonb)) "
    "AS r(order_id text, kind text, payload jsonb, try_number int) "
    "ON CONFLICT DO NOTHING"
)
_WITHDRAW = text(
    "DELETE FROM outbox WHERE order_id = ANY(CAST(:ids AS text[])) AND kind = ANY(:kinds) AND sent_at IS NULL"
)
_IS_DUE = text(
    "SELECT EXISTS (SELECT 1 FROM outbox WHERE sent_at IS NULL AND refused_at IS NULL "
    "AND next_attempt_at <= now() - make_interval(secs => :waited) "
    "AND (CAST(:ids AS text[]) IS NULL OR order_id = ANY(CAST(:ids AS text[]))))"
)
# A claim delays the next attempt by more than sending can take; the recorded result then sets its final time.
_TAKE = text(
    """
    WITH due AS (
        SELECT id FROM outbox WHERE sent_at IS NULL AND refused_at IS NULL AND next_attempt_at <= now()
          AND (CAST(:ids AS text[]) IS NULL OR order_id = ANY(CAST(:ids AS text[])))
        ORDER BY next_attempt_at LIMIT :most FOR UPDATE SKIP LOCKED
    )
    UPDATE outbox m SET attempts = m.attempts + 1,
        next_attempt_at = now() + make_interval(secs => :claim),
        claimed_until = now() + make_interval(secs => :claim)
    FROM due WHERE m.id = due.id
    RETURNING m.id, m.order_id, m.kind, m.payload, m.created_at, m.attempts, m.try_number,
        (SELECT content FROM customer_order o WHERE o.id = m.order_id) AS content,
        (SELECT result FROM order_step s WHERE s.order_id = m.order_id AND s.step = :step) AS confirmation
    """
)
_TAKING = failpoint("the commit of taking messages")


async def put(tx: Tx, messages: Iterable[Message]) -> int:
    """Adds messages, one of each kind per order and try: a second one is ignored. Returns how many are
    new."""
    rows = [asdict(message) for message in messages]
    return (await tx.execute(_PUT, {"rows": as_json(rows)})).rowcount if rows else 0


async def withdraw(tx: Tx, order_ids: Sequence[str], kinds: Sequence[str]) -> None:
    """Deletes the orders' messages of these kinds that are not sent yet."""
    if order_ids:
        await tx.execute(_WITHDRAW, {"ids": list(order_ids), "kinds": list(kinds)})


async def is_due(order_ids: Sequence[str] | None = None, *, waited: float = 0) -> bool:
    """Returns whether a message (of these orders) has been due for at least `waited` seconds."""
    async with transaction() as tx:
        values = {"ids": list(order_ids) if order_ids is not None else None, "waited": waited}
        return bool((await tx.execute(_IS_DUE, values)).scalar())


async def deliver(*, most: int = 50, order_ids: Sequence[str] | None = None) -> tuple[int, int]:
    """Sends up to `most` messages that are due (of these orders). Returns how many were sent, and how many
    failed: those are retried after a growing pause, unless the receiver refused them permanently. Raises
    database errors only; messages whose result could not be recorded are then sent again.
    """
    s = settings()
    async with transaction(_TAKING) as tx:
        ids = list(order_ids) if order_ids is not None else None
        due = {"most": most, "ids": ids, "step": CONFIRMATION_STEP, "claim": max_batch_seconds(s)}
        taken = (await tx.execute(_TAKE, due)).mappings().all()
    if not taken:
        return 0, 0
    delivery_log = DeliveryLog({row["id"]: row for row in taken})
    await send(taken, s, delivery_log, time.monotonic() + SENDING_SECONDS)
    if delivery_log.error is not None:
        raise delivery_log.error
    return delivery_log.sent, delivery_log.failed


_MANY_ATTEMPTS = 3
"""Attempts from which a failed message is shown."""
SHOWN_DAYS = 30
"""Limits the age of messages that are shown or counted as refused, or keep an order from being erased, in
days."""
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
# Not at once while it is being sent: then there would be two of it.
_AGAIN = text(
    "UPDATE outbox SET refused_at = NULL, next_attempt_at = greatest(now(), claimed_until), attempts = 0 "
    "WHERE sent_at IS NULL "
    "AND error IS NOT NULL AND (CAST(:ids AS text[]) IS NULL OR order_id = ANY(CAST(:ids AS text[])))"
)


class Undelivered(BaseModel, frozen=True):
    """A message that could not be delivered."""

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
    number. Idempotent: does not resend what was sent, or is being sent."""
    async with transaction() as tx:
        return await tx.run_sync(_again, order_ids or None)


def send_again_sync(*order_ids: str) -> int:
    """Like `send_again`, for callers without an event loop."""
    with sync_engine(settings().database_url).begin() as connection:
        return _again(connection, order_ids or None)


def _read(connection: Connection, most: int) -> list[Undelivered]:
    rows = connection.execute(_UNDELIVERED, {"most": most, "many": _MANY_ATTEMPTS, "days": SHOWN_DAYS})
    return [Undelivered(**row) for row in rows.mappings()]


def _again(connection: Connection, order_ids: Sequence[str] | None) -> int:
    return connection.execute(_AGAIN, {"ids": list(order_ids) if order_ids is not None else None}).rowcount


# A message that is not sent yet never will be: there is no address any more.
_MESSAGES = text(
    "UPDATE outbox SET payload = '{}', error = NULL, "
    "refused_at = CASE WHEN sent_at IS NULL THEN coalesce(refused_at, now()) ELSE refused_at END "
    "WHERE order_id = ANY(CAST(:ids AS text[]))"
)
_INTERACTIONS = text(
    "UPDATE customer_interaction SET customer_id = :erased, details = '{}' "
    "WHERE order_id = ANY(CAST(:ids AS text[]))"
)


def erase(connection: Connection, order_ids: Sequence[str], erased: str) -> None:
    """Empties the orders' messages and interactions; `erased` replaces the customer's id. Messages that are
    not sent yet will not be."""
    connection.execute(_MESSAGES, {"ids": list(order_ids)})
    connection.execute(_INTERACTIONS, {"ids": list(order_ids), "erased": erased})
