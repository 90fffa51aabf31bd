"""The record of what people decided about orders, and of what their shop said later: who, when and why."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, text

from saga.database import as_json

_ADD = text(
    'INSERT INTO desk_entry (order_id, action, "by", started_by, reason, reference, amount, currency, '
    "old_address) VALUES (:id, :action, :by, :started_by, :reason, :reference, :amount, :currency, "
    "CAST(:old_address AS jsonb))"
)

_LAST = text(
    "SELECT reason FROM desk_entry WHERE order_id = :id AND action = :action ORDER BY id DESC LIMIT 1"
)


def last_reason(connection: Connection, order_id: str, action: str) -> str | None:
    """Returns the reason of the order's last entry of this action."""
    found: str | None = connection.execute(_LAST, {"id": order_id, "action": action}).scalar_one_or_none()
    return found


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
