"""What came for an order by transfer or on delivery, as `shop.payments.recording` recorded it."""

from __future__ import annotations

from decimal import Decimal

from sqlalchemy import text

from saga.database import transaction

SUM = text(
    "SELECT coalesce(sum(amount), 0) FROM received_payment WHERE order_id = :id AND currency = :currency"
)


async def received(order_id: str, currency: str) -> Decimal:
    """Returns what was received for the order."""
    async with transaction() as tx:
        return Decimal((await tx.execute(SUM, {"id": order_id, "currency": currency})).scalar_one())
