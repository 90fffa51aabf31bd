"""Outbox: messages are committed with the effect that causes them, and sent afterwards, with retries until
they are sent.

Delivery is at least once: if the process dies, or gets no answer, after the receiver accepted the message, it
is sent again. A mail's Message-ID and file name, and a webhook's id, are derived from order, try and kind, so
that receivers can deduplicate them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import text

from saga.database import Tx, as_json, transaction
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
    UPDATE outbox m SET attempts = m.attempts + 1, next_attempt_at = now() + make_interval(secs => :claim)
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
