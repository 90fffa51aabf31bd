"""Step 5, the pivot: ship it. Before this the order can be undone; after it, it only goes forward, unless a person sends it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shop.database import Tx
from shop.errors import OrderError
from shop.shipping import outside
from shop.shipping.fulfilment import FulfilmentResult, fulfil
from shop.shipping.returns import ReturnResult, take_back
from shop.under_way import OrderUnderWay
from shop.work import OutsideAction
from tasks.step import database_step, database_undo


def _preparing(orders: Sequence[OrderUnderWay]) -> OutsideAction | None:
    return outside.prepare if outside.is_needed(orders) else None


def _taking_back(orders: Sequence[OrderUnderWay]) -> OutsideAction | None:
    return outside.take_back if outside.is_needed(orders) else None


@database_step(before=_preparing)
async def fulfill_order(tx: Tx, orders: Sequence[OrderUnderWay]) -> Mapping[str, FulfilmentResult | OrderError]:
    """Commits the stock, books the parcel, updates the order's status. Before the transaction, what is outside: stock is committed at an
    inventory service, a label is bought at a carrier. The label is printed with the mail (`deliver_outbox`).

    Raises `CarrierRefused`, `ReservationLost` and `OrderCancelled`, with nothing shipped; and, retryable, `CarrierUnavailable` and
    `InventoryUnavailable`.
    """
    return await fulfil(tx, orders)


@database_undo(before=_taking_back)
async def return_shipment(tx: Tx, orders: Sequence[OrderUnderWay]) -> Mapping[str, ReturnResult]:
    """Voids the label, unless the parcel is handed over, and puts the pieces back on the shelf; says so when there was no parcel.

    Runs for orders that a person cancels, and for those that could not be shipped after a label may have been bought. Raises `VoidRefused`.
    """
    return await take_back(tx, orders)
