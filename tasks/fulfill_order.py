"""Step 5, the pivot: ships the order. Before it, an order can be compensated; after it, the order only goes
forward, unless a person cancels it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from saga.database import Tx
from saga.errors import StepError
from saga.prefect.steps import database_compensation, database_step
from shop.orders.order import OrderInstance
from shop.shipping import booking
from shop.shipping.fulfilment import FulfilmentResult, ReturnResult, fulfil, take_back


@database_step(before=booking.before_fulfilment)
async def fulfill_order(
    tx: Tx, orders: Sequence[OrderInstance]
) -> Mapping[str, FulfilmentResult | StepError]:
    """Commits the stock, books the parcel, updates the order's status. External calls happen before the
    transaction: commits the stock at an inventory service, buys a label from a carrier. The embedded
    carrier's label is drawn when it is asked for.

    Raises `CarrierRefused`, `ReservationLost` and `SagaCancelled`, with nothing shipped; and, retryable,
    `CarrierUnavailable` and `InventoryUnavailable`.
    """
    return await fulfil(tx, orders)


@database_compensation(before=booking.before_return)
async def return_shipment(tx: Tx, orders: Sequence[OrderInstance]) -> Mapping[str, ReturnResult]:
    """Voids the label, unless the carrier has the parcel, and returns the items to stock; the result says if
    there was no parcel.

    Runs for orders that a person cancels, and for orders whose shipping failed after a label may have been
    bought. Raises `VoidRefused`.
    """
    return await take_back(tx, orders)
