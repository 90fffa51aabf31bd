"""Erases what messages and the embedded CRM say of customers."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

# A message that was refused for good stays so: there is no address any more.
_MESSAGES = text("UPDATE outbox SET payload = '{}', error = NULL WHERE order_id = ANY(CAST(:ids AS text[]))")
_INTERACTIONS = text(
    "UPDATE customer_interaction SET customer_id = :erased, details = '{}' "
    "WHERE order_id = ANY(CAST(:ids AS text[]))"
)


def erase(connection: Connection, order_ids: Sequence[str], erased: str) -> None:
    """Empties the orders' messages and interactions; `erased` replaces the customer's id."""
    connection.execute(_MESSAGES, {"ids": list(order_ids)})
    connection.execute(_INTERACTIONS, {"ids": list(order_ids), "erased": erased})
