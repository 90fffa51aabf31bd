"""The pivot: stock leaves the shelf, a parcel gets its number, the order's status says so. One transaction.

The embedded carrier's parcels are booked in it, and the embedded stock moves in it. What is outside has been asked before
(`shop.shipping.outside`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from saga.clock import begin_of
from saga.database import Tx
from saga.errors import StepError
from shop.inventory import stock
from shop.orders.order import OrderInstance
from shop.orders.shipped import mark_shipped, unmark_shipped
from shop.settings import Settings, settings
from shop.shipping import carriers, shipments
from shop.shipping.booking import booked
from shop.shipping.carrier import Shipment
from shop.shipping.carriers import EMBEDDED, carrier_of
from shop.shipping.embedded import EmbeddedCarrier
from shop.shipping.errors import CarrierRefused
from shop.shipping.labels.files import label_path
from shop.shipping.shipments import Leaving

STEP = carriers.STEP


class FulfilmentResult(BaseModel):
    """What `fulfill_order` produces."""

    fulfillment_status: Literal["shipped"] = "shipped"
    shipment_id: str
    """Ours for the embedded carrier; a carrier's own, if it is one outside."""
    booked_at: str = EMBEDDED
    """Which carrier (the setting's name) was asked."""
    tracking_number: str
    carrier: str
    service: str
    label_path: str
    shipped_at: datetime
    estimated_delivery: str


async def fulfil(tx: Tx, orders: Sequence[OrderInstance]) -> dict[str, FulfilmentResult | StepError]:
    """Ships what can be shipped, and nothing that is to be cancelled. A second call for the same order finds the first one's parcel."""
    s = settings()
    embedded = EmbeddedCarrier(s)
    known = await shipments.known(tx, [order.id for order in orders])
    results: dict[str, FulfilmentResult | StepError] = {}
    outside: dict[str, Shipment] = {}
    leaving: list[OrderInstance] = []
    for order in orders:
        try:
            parcel = _outside(order)
            if (row := known.get(order.id)) is not None:
                results[order.id] = _result(order, row, parcel, s, row.created_at)
                continue
            if parcel is None:
                embedded.check(order.payload)
        except CarrierRefused as refusal:
            results[order.id] = refusal
        else:
            leaving.append(order)
            if parcel is not None:
                outside[order.id] = parcel
    results |= await mark_shipped(tx, [order.id for order in leaving])
    going = [order for order in leaving if order.id not in results]
    shipped = await stock.ship(tx, going)
    if lost := {i: lost for i, lost in shipped.items() if isinstance(lost, StepError)}:
        results |= lost
        await unmark_shipped(tx, list(lost))
    items = {i: dict(items) for i, items in shipped.items() if not isinstance(items, StepError)}
    serials = await shipments.serials(tx, len(items))
    parcels = [Leaving(serial, outside.get(i) or embedded.shipment(i, serial), items[i]) for serial, i in zip(serials, items, strict=True)]
    await shipments.enter(tx, parcels)
    now, by_id = await begin_of(tx), {order.id: order for order in leaving}
    for left in parcels:
        i = left.shipment.order_id
        results[i] = _result(by_id[i], left.shipment, outside.get(i), s, now)
    return results


def _outside(order: OrderInstance) -> Shipment | None:
    """None: the embedded carrier's. An order that should have a parcel outside and has none must not leave with one of ours."""
    parcel = booked(order)
    if parcel is None and carrier_of(order) != EMBEDDED:
        raise RuntimeError("a parcel of a carrier outside has to be booked before its order is shipped")
    return parcel


def _result(order: OrderInstance, parcel: Any, outside: Shipment | None, s: Settings, when: datetime) -> FulfilmentResult:
    """`parcel`: a shipment, or its row in our table."""
    return FulfilmentResult(
        shipment_id=outside.id if outside else f"SHP-{parcel.tracking_number}",
        booked_at=carrier_of(order),
        tracking_number=parcel.tracking_number,
        carrier=parcel.carrier,
        service=parcel.service,
        label_path=str(label_path(s.label_dir, order.id)),
        shipped_at=when,
        estimated_delivery=s.shipping.estimated_delivery,
    )
