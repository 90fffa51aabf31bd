"""Changes of orders' rows besides the engine's: shipped at the pivot, corrected after the end, open again,
erased."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, text

from saga.database import Tx, as_json
from saga.errors import SagaCancelled
from shop.orders.outcomes import Outcome

# The point of no return. A cancellation writes the same row,
# so that one of the two is first and the other sees it.
_MARK = text(
    "UPDATE customer_order SET status = 'shipped' "
    "WHERE id = ANY(CAST(:ids AS text[])) AND cancel_requested_at IS NULL RETURNING id"
)
_CANCELLED = text("SELECT id, cancel_reason FROM customer_order WHERE id = ANY(CAST(:ids AS text[]))")
_UNMARK = text("UPDATE customer_order SET status = 'received' WHERE id = ANY(CAST(:ids AS text[]))")


async def mark_shipped(tx: Tx, order_ids: Sequence[str]) -> dict[str, SagaCancelled]:
    """Marks the orders as shipped, and returns those that are to be cancelled: they are not marked."""
    if not order_ids:
        return {}
    marked = set((await tx.execute(_MARK, {"ids": list(order_ids)})).scalars())
    if len(marked) == len(order_ids):
        return {}
    rows = await tx.execute(_CANCELLED, {"ids": [i for i in order_ids if i not in marked]})
    return {row.id: SagaCancelled(row.cancel_reason) for row in rows.all()}


async def unmark_shipped(tx: Tx, order_ids: Sequence[str]) -> None:
    """Reverts `mark_shipped` in the same transaction, for orders that cannot be shipped after all."""
    if order_ids:
        await tx.execute(_UNMARK, {"ids": list(order_ids)})


_CORRECT = text(
    "UPDATE customer_order SET amount_charged = :charged, amount_refunded = :refunded, "
    "amount_at_risk = :at_risk, outcome = :outcome, status = :outcome, "
    "undone = CAST(:undone AS jsonb) WHERE id = :id"
)
_ADD_FAILURE = text(
    "UPDATE customer_order SET failure = CAST(:failure AS jsonb) WHERE id = :id AND failure IS NULL"
)


async def correct(
    tx: Tx,
    order_id: str,
    *,
    charged: Decimal,
    refunded: Decimal,
    at_risk: Decimal,
    outcome: Outcome | str,
    undone: Sequence[dict[str, Any]],
) -> None:
    """Replaces the order's amounts, outcome and compensations."""
    money = {"charged": charged, "refunded": refunded, "at_risk": at_risk}
    await tx.execute(_CORRECT, {"id": order_id, **money, "outcome": outcome, "undone": as_json(undone)})


async def add_failure(tx: Tx, order_id: str, failure: Mapping[str, Any]) -> None:
    """Adds a failure to an order that has none, so that it is compensated,
    and goes no further, once it is open again."""
    await tx.execute(_ADD_FAILURE, {"id": order_id, "failure": as_json(dict(failure))})


_BACK_TO_REVIEW = text(
    "UPDATE customer_order SET outcome = 'needs_attention', status = 'needs_attention', finished_at = now(), "
    "not_before = NULL, waits_for = NULL, waits_since = NULL WHERE id = :id AND outcome IS NULL"
)
_DUE_NOW = text(
    "UPDATE customer_order SET not_before = now() WHERE id = :id AND outcome IS NULL AND lease_id IS NULL "
    "AND not_before IS NOT NULL AND (CAST(:code AS text) IS NULL OR waits_for = :code)"
)


def end_under_review(connection: Connection, order_id: str) -> None:
    """Ends an open order under manual review again: its retry waits for an external system."""
    connection.execute(_BACK_TO_REVIEW, {"id": order_id})


def end_postponement(connection: Connection, order_id: str, code: str | None = None) -> bool:
    """Makes an order that was postponed, for this reason if one is given, due now, not since its submission:
    until it is claimed, it raises no alert. Returns whether there was one that no worker holds."""
    return connection.execute(_DUE_NOW, {"id": order_id, "code": code}).rowcount > 0


_ERASE = text(
    """
    UPDATE customer_order o
    SET erased_at = now(), content = r.content,
        failure = CASE WHEN o.failure IS NOT NULL THEN r.failure END,
        reasons = r.reasons, undone = r.undone,
        cancel_reason = CASE WHEN o.cancel_reason IS NOT NULL THEN :erased END,
        cancel_requested_by = CASE WHEN o.cancel_requested_by IS NOT NULL THEN :erased END
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(id text, content jsonb, failure jsonb, reasons jsonb, undone jsonb)
    WHERE o.id = r.id
    """
)

_OF_TRIES = text("SELECT * FROM order_try WHERE order_id = ANY(CAST(:ids AS text[])) FOR UPDATE")
_ERASE_TRY = text(
    """
    UPDATE order_try t
    SET failure = r.failure, reasons = r.reasons, undone = r.undone, journal = r.journal,
        requested_by = CASE WHEN t.requested_by IS NOT NULL THEN :erased END,
        reason = CASE WHEN t.reason IS NOT NULL THEN :erased END
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(order_id text, number int, failure jsonb, reasons jsonb, undone jsonb, journal jsonb)
    WHERE (t.order_id, t.number) = (r.order_id, r.number)
    """
)


def erase(connection: Connection, rows: Sequence[Mapping[str, Any]], erased: str) -> None:
    """Replaces what the orders say, by the rows' `content`, `failure`, `reasons` and `undone`, and by
    `erased` the words of those who cancelled."""
    connection.execute(_ERASE, {"rows": as_json([dict(row) for row in rows]), "erased": erased})


def erase_tries(
    connection: Connection, order_ids: Sequence[str], scrubbed: Callable[[Any], Any], erased: str
) -> None:
    """Replaces what the orders' earlier tries say by `scrubbed` of it, and texts by `erased`."""
    rows = [
        {
            "order_id": row["order_id"],
            "number": row["number"],
            "failure": None if row["failure"] is None else {**scrubbed(row["failure"]), "message": erased},
            "reasons": [erased] if row["reasons"] else [],
            "undone": scrubbed(row["undone"]),
            "journal": scrubbed(row["journal"]),
        }
        for row in connection.execute(_OF_TRIES, {"ids": list(order_ids)}).mappings()
    ]
    if rows:
        connection.execute(_ERASE_TRY, {"rows": as_json(rows), "erased": erased})
