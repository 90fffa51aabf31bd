"""The record of what people decided about orders, and of what their shop said later: who, when and why; and
its erasure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, text

from saga.database import as_json

_ADD = text(
    'INSERT INTO desk_entry (order_id, action, "by", started_by, reason, reference, amount, currency, '
    "old_address) VALUES (:id, :action, :by, :started_by, :reason, :reference, :amount, :currency, "
    "CAST(:old_address AS jsonb))"
)

_EARLIER = text(
    "SELECT action, started_by, reason, old_address FROM desk_entry WHERE order_id = :id "
    "ORDER BY id DESC LIMIT 100"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of an order's record."""

    action: str
    started_by: str | None
    reason: str | None
    old_address: Mapping[str, Any] | None


def read_entries(connection: Connection, order_id: str) -> list[Entry]:
    """Returns the order's last entries, the newest first."""
    rows = connection.execute(_EARLIER, {"id": order_id})
    return [Entry(row.action, row.started_by, row.reason, row.old_address) for row in rows]


def add_entry(
    connection: Connection,
    order_id: str,
    action: str,
    *,
    by: str,
    started_by: str | None,
    reason: str | None,
    reference: str | None = None,
    amount: Decimal = Decimal(0),
    currency: str | None = None,
    old_address: Mapping[str, Any] | None = None,
) -> None:
    """Adds an entry in the caller's transaction. `by` is what somebody typed, `started_by` what the system
    knows of who it was."""
    connection.execute(
        _ADD,
        {
            "id": order_id,
            "action": action,
            "by": by,
            "started_by": started_by,
            "reason": reason,
            "reference": reference,
            "amount": amount,
            "currency": currency,
            "old_address": None if old_address is None else as_json(dict(old_address)),
        },
    )


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
