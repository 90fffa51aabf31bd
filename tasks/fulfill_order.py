"""Step 5, the pivot: ship it. Before this the order can be undone; after it, it only goes forward, unless a person sends it back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shop.database import Tx
from shop.errors import OrderError
from shop.shipping.fulfilment import FulfilmentResult, fulfil
from shop.shipping.returns import ReturnResult, take_back
from shop.under_way import OrderUnderWay
from tasks.step import database_step, database_undo


@database_step()
async def fulfill_order(tx: Tx, orders: Sequence[OrderUnderWay]) -> Mapping[str, FulfilmentResult | OrderError]:
    """Commits the stock, books the parcel, updates the order's status. The label is printed with the mail (`deliver_outbox`).

    Raises `CarrierRefused`, `ReservationLost` and `OrderCancelled`, with nothing shipped.
    """
    return await fulfil(tx, orders)


@database_undo()
async def return_shipment(tx: Tx, orders: Sequence[OrderUnderWay]) -> Mapping[str, ReturnResult]:
    """Puts the pieces back on the shelf; says so when there was no parcel. Runs only for orders that a person cancels."""
    return await take_back(tx, orders)
