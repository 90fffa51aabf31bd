"""Step 5, the pivot: ship it. Before this the order can be undone; after it, it only goes forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shop.database import Tx
from shop.errors import OrderError
from shop.shipping.fulfilment import FulfilmentResult, fulfil
from shop.under_way import OrderUnderWay
from tasks.step import database_step


@database_step()
async def fulfill_order(tx: Tx, orders: Sequence[OrderUnderWay]) -> Mapping[str, FulfilmentResult | OrderError]:
    """Commits the stock, books the parcel, updates the order's status. The label is printed with the mail (`deliver_outbox`).

    Raises `CarrierRefused` and `ReservationLost`, with nothing shipped.
    """
    return await fulfil(tx, orders)
