"""Corrections of orders that have ended, whose rows the caller has locked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from sqlalchemy import text

from saga.database import Tx, as_json
from shop.orders.outcomes import Outcome

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
