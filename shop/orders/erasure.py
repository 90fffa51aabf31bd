"""Erases what orders say of their customers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, text

from saga.database import as_json

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
