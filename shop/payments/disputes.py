"""Charges that a customer's bank disputes: shown to a person until they are closed. No automatic action."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from sqlalchemy import Connection, text

from saga.database import Tx, sync_engine
from shop.settings import settings
from shop.values.frozen import Frozen

CLOSED = frozenset({"won", "lost", "warning_closed", "prevented"})
"""States in which the bank has decided. In any other the dispute can still be answered or decided."""


class Dispute(Frozen):
    """A dispute as the gateway reports it."""

    id: str
    payment_id: str | None
    amount: Decimal
    currency: str
    reason: str
    """The gateway's code, such as `fraudulent` or `product_not_received`; `status`, too."""
    status: str
    evidence_due_by: datetime | None
    opened_at: datetime


class OpenDispute(Dispute):
    """A dispute that is not closed."""

    order_id: str | None
    """None: the payment belongs to no order here."""


# Newer information is not replaced, and a closed dispute stays closed.
_PUT = text(
    """
    INSERT INTO dispute AS d (
        id, order_id, payment_id, amount, currency, reason, status,
        evidence_due_by, opened_at, as_of, closed_at)
    VALUES (
        :id, :order_id, :payment_id, :amount, :currency, :reason, :status,
        :evidence_due_by, :opened_at, :as_of, CASE WHEN :closed THEN now() END)
    ON CONFLICT (id) DO UPDATE
    SET order_id = coalesce(excluded.order_id, d.order_id),
        payment_id = coalesce(excluded.payment_id, d.payment_id),
        amount = excluded.amount, currency = excluded.currency,
        reason = excluded.reason, status = excluded.status,
        evidence_due_by = excluded.evidence_due_by, as_of = excluded.as_of,
        closed_at = coalesce(d.closed_at, excluded.closed_at)
    WHERE d.as_of <= excluded.as_of AND (d.closed_at IS NULL OR excluded.closed_at IS NOT NULL)
    """
)
_OPEN = text(
    "SELECT id, order_id, payment_id, amount, currency, reason, status, evidence_due_by, opened_at "
    "FROM dispute WHERE closed_at IS NULL ORDER BY evidence_due_by NULLS LAST, opened_at, id LIMIT :most"
)
_ANSWERABLE = frozenset({"needs_response", "warning_needs_response"})


async def put(tx: Tx, dispute: Dispute, order_id: str | None, as_of: datetime) -> None:
    """Stores the state of a dispute at the time `as_of`. Information that is newer is kept."""
    more = {"order_id": order_id, "as_of": as_of, "closed": dispute.status in CLOSED}
    await tx.execute(_PUT, {**dispute.model_dump(), **more})


def read_open(connection: Connection, most: int) -> list[OpenDispute]:
    """Returns the open disputes, those with the earliest deadline first."""
    return [OpenDispute(**row) for row in connection.execute(_OPEN, {"most": most}).mappings()]


def read_open_sync(most: int = 500) -> list[OpenDispute]:
    """Runs `read_open` for callers without an event loop."""
    with sync_engine(settings().database_url).connect() as connection:
        return read_open(connection, most)


def advice(dispute: OpenDispute) -> str:
    """Returns what a person can do about it."""
    if dispute.status not in _ANSWERABLE:
        return "Nothing now: the customer's bank decides."
    until = (
        f" until {dispute.evidence_due_by.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        if dispute.evidence_due_by
        else ""
    )
    return (
        f"Answer {dispute.id} in the gateway's dashboard{until}, with proof of the order and its delivery, "
        "or accept it there. An unanswered dispute is lost. "
        "Do not refund the order as well: the customer would be paid twice."
    )
