"""The outbox: messages are written in the transaction that makes them due, and sent afterwards, until they are sent.

Sending is at least once by nature; a message's file name and Message-ID are made of its order and kind, so that a second
sending is the same message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import text

from shop.database import Tx, as_json, transaction
from shop.notifications.mail import mail_path, render_confirmation_mail, render_refund_mail, write_mail
from shop.order import Order
from shop.points import effect
from shop.settings import settings
from shop.shipping.printing import print_label

log = logging.getLogger(__name__)

CONFIRMATION_STEP = "generate_confirmation"
"""Whose result, in the journal, is the text of the confirmation."""


class Kind(StrEnum):
    CONFIRMATION = "confirmation"
    REFUND = "refund"
    """That the money went back; written only once it did."""


@dataclass(frozen=True, slots=True)
class Message:
    order_id: str
    kind: Kind
    payload: dict[str, Any]


_PUT = text(
    "INSERT INTO outbox (order_id, kind, payload) "
    "SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(order_id text, kind text, payload jsonb) ON CONFLICT DO NOTHING"
)
_IS_DUE = text(
    "SELECT EXISTS (SELECT 1 FROM outbox WHERE sent_at IS NULL AND next_attempt_at <= now() - make_interval(secs => :waited) "
    "AND (CAST(:ids AS text[]) IS NULL OR order_id = ANY(CAST(:ids AS text[]))))"
)
# Claimed messages are not due again for a while: long enough to send them, and longer with each failure.
_TAKE = text(
    """
    WITH due AS (
        SELECT id FROM outbox WHERE sent_at IS NULL AND next_attempt_at <= now()
          AND (CAST(:ids AS text[]) IS NULL OR order_id = ANY(CAST(:ids AS text[])))
        ORDER BY next_attempt_at LIMIT :most FOR UPDATE SKIP LOCKED
    )
    UPDATE outbox m SET attempts = m.attempts + 1, next_attempt_at = now() + make_interval(secs => 30 * power(2, least(m.attempts, 7)))
    FROM due, customer_order o LEFT JOIN order_step s ON s.order_id = o.id AND s.step = :step
    WHERE m.id = due.id AND o.id = m.order_id
    RETURNING m.id, m.order_id, m.kind, m.payload, m.created_at, o.content, s.result AS confirmation
    """
)
_TAKING, _NOTING_SENT, _LABEL, _MAIL = (
    effect(what) for what in ("the commit of taking messages", "the commit of messages sent", "printing a label", "sending a mail")
)
_SENT = text("UPDATE outbox SET sent_at = now(), error = NULL WHERE id = ANY(CAST(:ids AS bigint[]))")
_FAILED = text("UPDATE outbox SET error = :error WHERE id = :id")


async def put(tx: Tx, messages: Iterable[Message]) -> None:
    """Adds messages; one of each kind for an order, so a second one is ignored."""
    rows = [{"order_id": m.order_id, "kind": m.kind, "payload": m.payload} for m in messages]
    if rows:
        await tx.execute(_PUT, {"rows": as_json(rows)})


async def is_due(order_ids: Sequence[str] | None = None, *, waited: float = 0) -> bool:
    """Whether there is anything (for these orders) that should have been sent so many seconds ago."""
    async with transaction() as tx:
        asked = {"ids": list(order_ids) if order_ids is not None else None, "waited": waited}
        return bool((await tx.execute(_IS_DUE, asked)).scalar())


async def deliver(*, most: int = 50, order_ids: Sequence[str] | None = None) -> tuple[int, int]:
    """Sends up to `most` messages that are due (of these orders). Returns how many were sent, and how many failed, which are
    tried again after a growing pause."""
    async with transaction(_TAKING) as tx:
        due = {"most": most, "ids": list(order_ids) if order_ids is not None else None, "step": CONFIRMATION_STEP}
        taken = (await tx.execute(_TAKE, due)).mappings().all()
    if not taken:
        return 0, 0
    failures = await asyncio.to_thread(_send_all, taken)  # a disk that hangs must not stop the orders under way
    async with transaction(_NOTING_SENT) as tx:
        await tx.execute(_SENT, {"ids": [row["id"] for row in taken if row["id"] not in failures]})
        for failed, error in failures.items():
            await tx.execute(_FAILED, {"id": failed, "error": error})
    return len(taken) - len(failures), len(failures)


def _send_all(rows: Sequence[Any]) -> dict[int, str]:
    failures = {}
    for row in rows:
        try:
            _send(
                Order.model_validate(row["content"]),
                Kind(row["kind"]),
                {**row["payload"], "confirmation": row["confirmation"]},
                row["created_at"],
            )
        except Exception as error:
            failures[row["id"]] = type(error).__name__  # its text may hold the customer's data
            log.exception("the %s of order %s could not be sent; it is tried again", row["kind"], row["order_id"])
    return failures


def _send(order: Order, kind: Kind, payload: dict[str, Any], date: datetime) -> None:
    s = settings()
    if kind is Kind.CONFIRMATION:
        tracking_number = str(payload["tracking_number"])
        with _LABEL:
            print_label(order, payload, s)  # before the customer hears of the parcel
        message = render_confirmation_mail(order, payload["confirmation"], tracking_number, s, date)
    else:
        message = render_refund_mail(order, Decimal(payload["amount"]), str(payload["currency"]), s, date, why=payload.get("why"))
    with _MAIL:
        write_mail(mail_path(s.mail_dir, order.id, kind), message)
