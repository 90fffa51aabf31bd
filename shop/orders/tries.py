"""The tries of an order: its id is used again after it ended uncompleted.

The number of the current try, and what later steps need to know of the earlier ones, travel in the stored
content under `TRY`. The table `order_try` has one row for each try that has ended and was followed by
another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import Connection, text

from saga.database import as_json
from saga.errors import SagaCancelled, SagaReturned
from shop.orders.order import OrderInstance
from shop.orders.outcomes import Outcome
from shop.values.money import exact

TRY = "~try"
"""The key of the stored content: `number`; `charged`, the amount that earlier tries charged and refunded
again; `payments`, their ids at the gateway. No order has a field of this name, and intake keeps none."""
MOST_TRIES = 99
"""Limits the tries of an order."""
RETRYABLE = frozenset({Outcome.REJECTED, Outcome.OUT_OF_STOCK, Outcome.COMPENSATED})
CANCELLED = frozenset({SagaCancelled.code, SagaReturned.code})
"""Failures by which a person ended the order for good."""
_ADD = text(
    """
    INSERT INTO order_try (
        order_id, number, outcome, failing_step, failure, reasons, undone, currency,
        amount_charged, amount_refunded, begun_at, finished_at, journal, requested_by, started_by, reason)
    SELECT * FROM jsonb_to_record(CAST(:row AS jsonb)) AS r(
        order_id text, number int, outcome text, failing_step text, failure jsonb, reasons jsonb, undone
        jsonb, currency text, amount_charged numeric, amount_refunded numeric, begun_at timestamptz,
        finished_at timestamptz, journal jsonb, requested_by text, started_by text, reason text)
    """
)


def try_number(instance: OrderInstance) -> int:
    """Returns the number of the order's current try; the first is 1."""
    return number_of(instance.content)


def number_of(content: Mapping[str, Any]) -> int:
    """Returns the number of the current try according to the stored content."""
    return int(_earlier(content).get("number", 1))


def earlier_money(content: Mapping[str, Any]) -> Decimal:
    """Returns the amount that earlier tries charged. They have refunded all of it."""
    return Decimal(_earlier(content).get("charged", 0))


def earlier_payments(content: Mapping[str, Any]) -> list[str]:
    """Returns the ids of the earlier tries' payments at the gateway, as far as they were journalled."""
    return list(_earlier(content).get("payments", ()))


def _earlier(content: Mapping[str, Any]) -> Mapping[str, Any]:
    found = content.get(TRY)
    return found if isinstance(found, Mapping) else {}


def marked(step: str, number: int) -> str:
    """Returns the step's name in keys of this try. Those of a first try have no mark."""
    return step if number == 1 else f"{step}.{number}"


def how_to_retry(order_id: str, outcome: str | None, *, cancelled: bool) -> str | None:
    """Returns how an order with this outcome is retried; None if it cannot be."""
    if outcome not in RETRYABLE or cancelled:
        return None
    return (
        f"order-saga retry {order_id}, or POST /orders/{{id}}/retry: with the token of another card, "
        "or with nothing after the catalogue or the stock was corrected. "
        "An order with other content needs another id"
    )


class EarlierTry(BaseModel, frozen=True):
    """A try of an order that has ended, and was followed by another."""

    number: int
    outcome: Outcome
    failing_step: str | None = None
    reasons: list[str] = Field(default_factory=list, description="why it did not complete")
    amount_charged: Decimal = Field(description="by this try alone; so is `amount_refunded`")
    amount_refunded: Decimal
    begun_at: datetime
    finished_at: datetime
    retried_at: datetime
    requested_by: str | None = Field(default=None, description="who asked for the next try, as typed")
    reason: str | None = Field(default=None, description="why, as typed")


_CODES = ", ".join(f"'{code}'" for code in sorted(CANCELLED))
IS_CANCELLED = f"(o.cancel_requested_at IS NOT NULL OR coalesce(o.failure ->> 'code' IN ({_CODES}), false))"
"""SQL: whether a person ended the order `o` for good."""
EARLIER_TRIES = """
    (SELECT coalesce(jsonb_agg(jsonb_build_object(
        'number', t.number, 'outcome', t.outcome, 'failing_step', t.failing_step, 'reasons', t.reasons,
        'currency', t.currency, 'amount_charged', t.amount_charged::text,
        'amount_refunded', t.amount_refunded::text, 'begun_at', t.begun_at, 'finished_at', t.finished_at,
        'retried_at', t.retried_at, 'requested_by', t.requested_by, 'reason', t.reason)
        ORDER BY t.number), '[]')
    FROM order_try t WHERE t.order_id = o.id)
"""
"""SQL: the earlier tries of the order `o`, for `read_tries`."""


def read_tries(rows: Sequence[Mapping[str, Any]]) -> list[EarlierTry]:
    """Converts what `EARLIER_TRIES` returns."""
    tries = []
    for row in rows:
        fields = dict(row)
        currency = fields.pop("currency")
        for name in ("amount_charged", "amount_refunded"):
            fields[name] = exact(Decimal(fields[name]), currency)
        tries.append(EarlierTry(**fields))
    return tries


def next_try(
    content: Mapping[str, Any], charged: Decimal, journal: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns what `TRY` is in the content of the next try. `charged`: by all tries until now. `journal`: the
    rows of the try that has ended."""
    found = [entry["notes"].get("payment_id") for entry in journal]
    payments = [*earlier_payments(content), *(payment_id for payment_id in found if payment_id)]
    return {"number": number_of(content) + 1, "charged": str(charged), "payments": payments}


def add_try(
    connection: Connection, order: Mapping[str, Any], journal: Sequence[Mapping[str, Any]], **who: str | None
) -> None:
    """Adds the try that has ended, in the caller's transaction. `order`: its row in `customer_order`. `who`:
    `requested_by`, `started_by` and `reason` of the next try."""
    kept = ("outcome", "failing_step", "failure", "reasons", "undone", "currency", "finished_at")
    earlier = earlier_money(order["content"])
    row = {
        **{name: order[name] for name in kept},
        "order_id": order["id"],
        "number": number_of(order["content"]),
        "amount_charged": order["amount_charged"] - earlier,
        "amount_refunded": order["amount_refunded"] - earlier,
        "begun_at": order["submitted_at"],
        "journal": list(journal),
        **who,
    }
    connection.execute(_ADD, {"row": as_json(row)})
