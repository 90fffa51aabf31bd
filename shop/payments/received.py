"""What came for an order by transfer or on delivery, as `shop.payments.recording` recorded it."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from sqlalchemy import text

from saga.database import Tx, transaction

SUM = text(
    "SELECT coalesce(sum(amount), 0) FROM received_payment WHERE order_id = :id AND currency = :currency"
)


_SUMS = text(
    "SELECT order_id, sum(amount) AS amount FROM received_payment "
    "WHERE order_id = ANY(CAST(:ids AS text[])) GROUP BY order_id"
)


async def received_by_order(tx: Tx, order_ids: Sequence[str]) -> dict[str, Decimal]:
    """Returns what was received for those of the orders for which anything was."""
    rows = await tx.execute(_SUMS, {"ids": list(order_ids)})
    return {row.order_id: Decimal(row.amount) for row in rows}


async def received(order_id: str, currency: str) -> Decimal:
    """Returns what was received for the order."""
    async with transaction() as tx:
        return Decimal((await tx.execute(SUM, {"id": order_id, "currency": currency})).scalar_one())
