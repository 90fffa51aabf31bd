"""Erases what the manual review says of customers."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

_CASES = text("UPDATE attention SET last_error = :erased WHERE order_id = ANY(CAST(:ids AS text[]))")
# Who decided about money stays. Who asked to cancel, or changed the address, may be the customer.
_ENTRIES = text(
    "UPDATE desk_entry SET reason = CASE WHEN reason IS NOT NULL THEN :erased END, "
    "\"by\" = CASE WHEN action IN ('cancel', 'change_address') THEN :erased ELSE \"by\" END, "
    "old_address = NULL "
    "WHERE order_id = ANY(CAST(:ids AS text[]))"
)


def erase(connection: Connection, order_ids: Sequence[str], erased: str) -> None:
    """Replaces errors, reasons and the names of those who may be the customer by `erased`; deletes former
    addresses."""
    for statement in (_CASES, _ENTRIES):
        connection.execute(statement, {"ids": list(order_ids), "erased": erased})
