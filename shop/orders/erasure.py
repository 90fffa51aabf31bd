"""Erases what orders say of their customers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def erase(connection: Connection, rows: Sequence[Mapping[str, Any]], erased: str) -> None:
    """Replaces what the orders say, by the rows' `content`, `failure`, `reasons` and `undone`, and by
    `erased` the words of those who cancelled."""
    connection.execute(_ERASE, {"rows": as_json([dict(row) for row in rows]), "erased": erased})
