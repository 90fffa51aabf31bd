"""Step 5, the pivot: ship it. Before this the order can be undone; after it, it only goes forward, unless a person sends it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shop.database import Tx
from shop.errors import OrderError
from shop.shipping.booking import book, unbook
from shop.shipping.carriers import any_outside
from shop.shipping.fulfilment import FulfilmentResult, fulfil
from shop.shipping.returns import ReturnResult, take_back
from shop.under_way import OrderUnderWay
from shop.work import OutsideAction
from tasks.step import database_step, database_undo


def _booking(orders: Sequence[OrderUnderWay]) -> OutsideAction | None:
    return book if any_outside(orders) else None


def _unbooking(orders: Sequence[OrderUnderWay]) -> OutsideAction | None:
    return unbook if any_outside(orders) else None


@database_step(before=_booking)
async def fulfill_order(tx: Tx, orders: Sequence[OrderUnderWay]) -> Mapping[str, FulfilmentResult | OrderError]:
    """Has a label bought (at a carrier outside, before the transaction), commits the stock, books the parcel, updates the order's status.
    The label is printed with the mail (`deliver_outbox`).

    Raises `CarrierRefused`, `ReservationLost` and `OrderCancelled`, with nothing shipped; and, retryable, `CarrierUnavailable`.
    """
    return await fulfil(tx, orders)


@database_undo(before=_unbooking)
async def return_shipment(tx: Tx, orders: Sequence[OrderUnderWay]) -> Mapping[str, ReturnResult]:
    """Voids the label, unless the parcel is handed over, and puts the pieces back on the shelf; says so when there was no parcel.

    Runs for orders that a person cancels, and for those that could not be shipped after a label may have been bought. Raises `VoidRefused`.
    """
    return await take_back(tx, orders)
