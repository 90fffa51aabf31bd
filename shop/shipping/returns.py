"""Compensates the fulfilment in one transaction: for an order that is cancelled after it was shipped, and for
one whose label was bought or whose stock was committed at a service, but that was not shipped. External
systems are called before (`shop.shipping.outside`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel
from sqlalchemy import text

from saga.clock import begin_of
from saga.database import Tx
from shop.inventory import stock
from shop.notifications import notices
from shop.notifications.kinds import Kind
from shop.orders.order import OrderInstance
from shop.shipping.carrier import Voided
from shop.shipping.carriers import STEP

_SET_RETURNED = text(
    "UPDATE shipment SET returned_at = now() "
    "WHERE order_id = ANY(CAST(:ids AS text[])) AND returned_at IS NULL RETURNING order_id, items"
)


class ReturnResult(BaseModel):
    """The result of `return_shipment`."""

    compensation_status: Literal["success", "no_shipment_to_return"]
    label: str | None = None
    """The result of voiding an external carrier's label; see `shop.shipping.carrier.Voided`."""
    returned_items: dict[str, int] = {}
    """Pieces per product that were returned to stock."""
    return_timestamp: datetime | None = None


async def take_back(tx: Tx, orders: Sequence[OrderInstance]) -> dict[str, ReturnResult]:
    """Marks the parcels as returned and returns their pieces to stock; once, however often it is called."""
    ids = [order.id for order in orders]
    returned: dict[str, dict[str, int]] = {
        row.order_id: row.items for row in (await tx.execute(_SET_RETURNED, {"ids": ids})).all()
    }
    in_stock = await stock.put_back(tx, orders, returned)
    # A confirmation that is not sent yet would promise a parcel that does not come.
    digital = [order.id for order in orders if not order.payload.needs_shipment]
    await notices.withdraw(tx, [*returned, *digital], Kind.CONFIRMATION)
    now = await begin_of(tx)
    results = {}
    for order in orders:
        items, label = dict(in_stock.get(order.id, {})), _label_of(order)
        undone = bool(items) or label not in {None, Voided.NOT_BOUGHT}
        results[order.id] = ReturnResult(
            compensation_status="success" if undone else "no_shipment_to_return",
            label=label,
            returned_items=items,
            return_timestamp=now if undone else None,
        )
    return results


def _label_of(order: OrderInstance) -> str | None:
    entry = order.journal.get(STEP)
    return entry.notes.get("label") if entry else None
