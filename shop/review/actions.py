"""What the actions of people on orders share: the order's lock, the text that they type, and the record of
decisions (also of what the shop said later), with its erasure.

Text is kept for ever and shown: one line of limited length, never card data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, RowMapping, TextClause, text

from saga.database import as_json
from shop.review.errors import OrderUnknown, ResolutionIncomplete
from shop.text.card_numbers import has_card_number
from shop.text.sanitize import one_line

_LONGEST = 300
"""Limits a text, in characters."""
_LOCK = text("SELECT id FROM customer_order WHERE id = :id FOR UPDATE")
_ADD = text(
    'INSERT INTO desk_entry (order_id, action, "by", started_by, reason, reference, amount, currency, '
    "old_address) VALUES (:id, :action, :by, :started_by, :reason, :reference, :amount, :currency, "
    "CAST(:old_address AS jsonb))"
)

_EARLIER = text(
    "SELECT action, started_by, reason, old_address FROM desk_entry WHERE order_id = :id "
    "ORDER BY id DESC LIMIT 100"
)


def lock_order(connection: Connection, order_id: str, look: TextClause, **values: object) -> RowMapping:
    """Locks the order and returns what `look` reads of it. Two statements: one alone would read what was
    there before it waited for the lock. Raises `OrderUnknown`."""
    if connection.execute(_LOCK, {"id": order_id}).one_or_none() is None:
        raise OrderUnknown(order_id)
    return connection.execute(look, {"id": order_id, **values}).mappings().one()


def required_text(name: str, given: str | None, why: str) -> str:
    """Returns the cleaned text. Raises `ResolutionIncomplete` if it is empty."""
    if (words := optional_text(name, given)) is None:
        raise ResolutionIncomplete(f"{name} is missing: {why}")
    return words


def optional_text(name: str, given: str | None) -> str | None:
    """Returns the cleaned text; None if it is empty. Raises `ResolutionIncomplete` if it is too long or
    looks like a card number, which the message does not repeat."""
    words = one_line(given, 100_000).strip()
    if len(words) > _LONGEST:
        raise ResolutionIncomplete(f"{name} is too long: shorten it to at most {_LONGEST} characters")
    if has_card_number(words):
        raise ResolutionIncomplete(
            f"{name} contains what looks like a card number, which is never stored: remove it"
        )
    return words or None


def optional_texts(**given: str | None) -> tuple[dict[str, str | None], dict[str, str]]:
    """Returns the cleaned texts by name, and the problems of those that cannot be stored."""
    texts, problems = dict[str, str | None](), dict[str, str]()
    for name, value in given.items():
        try:
            texts[name] = optional_text(name, value)
        except ResolutionIncomplete as error:
            problems[name] = str(error)
    return texts, problems


def system_text(text: str | None) -> str | None:
    """Returns a text from the system as it may be stored: one line, cut at the maximum length."""
    return one_line(text or "", _LONGEST).strip() or None


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
