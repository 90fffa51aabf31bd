"""Erases what the manual review says of customers."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

_CASES = text("UPDATE attention SET last_error = :erased WHERE order_id = ANY(CAST(:ids AS text[]))")
# Who decided about money stays. Who asked to cancel may be the customer.
_ENTRIES = text(
    "UPDATE desk_entry SET reason = CASE WHEN reason IS NOT NULL THEN :erased END, "
    '"by" = CASE action WHEN \'cancel\' THEN :erased ELSE "by" END '
    "WHERE order_id = ANY(CAST(:ids AS text[]))"
)


def erase(connection: Connection, order_ids: Sequence[str], erased: str) -> None:
    """Replaces errors, reasons and the names of those who cancelled by `erased`."""
    for statement in (_CASES, _ENTRIES):
        connection.execute(statement, {"ids": list(order_ids), "erased": erased})
