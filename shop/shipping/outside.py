"""What shipping needs from outside before its transaction, and what takes it back: stock at an inventory service, a label at a carrier.

Stock comes first: it costs nothing to put it back, and without it there is no need for a label.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shop.settings import settings
from shop.shipping import carriers
from shop.shipping.booking import book, unbook
from shop.shipping.embedded import EmbeddedCarrier
from shop.stock import inventories, saga
from shop.under_way import OrderUnderWay


def is_needed(orders: Iterable[OrderUnderWay]) -> bool:
    """Whether something outside is to be asked for one of the orders."""
    orders = list(orders)
    return carriers.any_outside(orders) or inventories.any_outside(orders)


async def prepare(under_way: OrderUnderWay) -> dict[str, Any]:
    """Has the stock committed and a label. Raises what an `Inventory` and a `Carrier` raise."""
    if carriers.carrier_of(under_way) == carriers.EMBEDDED:
        EmbeddedCarrier(settings()).check(under_way.order)  # what will be refused needs no stock
    return {**await saga.commit(under_way), **await book(under_way)}


async def take_back(under_way: OrderUnderWay) -> dict[str, Any]:
    """Puts the stock back and voids the label. A parcel that has left comes back only if its label can be voided or is used: then the stock
    waits for that. What never left does not depend on what becomes of its label."""
    if under_way.journal[carriers.STEP].status == "done":
        return {**await unbook(under_way), **await saga.put_back(under_way)}
    return {**await saga.put_back(under_way), **await unbook(under_way)}
