"""The pivot: ships the stock, assigns the parcel's tracking number and sets the order's status, in one
transaction.

The embedded carrier's parcels and the embedded stock are part of it. External systems are called before
(`shop.shipping.outside`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel
from sqlalchemy import text

from saga.clock import begin_of
from saga.database import Tx
from saga.errors import SagaCancelled, StepError
from shop.inventory import reservations
from shop.inventory import service_steps as stock
from shop.inventory.inventories import stock_of
from shop.orders.order import OrderInstance
from shop.settings import Settings, settings
from shop.shipping import carriers, shipments
from shop.shipping.booking import booked
from shop.shipping.carrier import Shipment
from shop.shipping.carriers import EMBEDDED, carrier_of
from shop.shipping.embedded import EmbeddedCarrier
from shop.shipping.errors import CarrierRefused
from shop.shipping.labels.label import label_path
from shop.shipping.shipments import Leaving

STEP = carriers.STEP
# The point of no return. Shipping and cancelling both write the order's row, so that the second one sees the
# first.
_SET_SHIPPED = text(
    "UPDATE customer_order SET status = 'shipped' WHERE id = ANY(CAST(:ids AS text[])) AND cancel_requested_at IS NULL RETURNING id"
)
_CANCEL_REASONS = text("SELECT id, cancel_reason FROM customer_order WHERE id = ANY(CAST(:ids AS text[]))")
_SET_RECEIVED = text("UPDATE customer_order SET status = 'received' WHERE id = ANY(CAST(:ids AS text[]))")


class FulfilmentResult(BaseModel):
    """The result of `fulfill_order`."""

    fulfillment_status: Literal["shipped"] = "shipped"
    shipment_id: str
    """The carrier's id; ours for the embedded carrier."""
    booked_at: str = EMBEDDED
    """The carrier's name in the settings."""
    tracking_number: str
    carrier: str
    service: str
    label_path: str
    shipped_at: datetime
    estimated_delivery: str


async def fulfil(tx: Tx, orders: Sequence[OrderInstance]) -> dict[str, FulfilmentResult | StepError]:
    """Ships the orders that can be shipped and are not cancelled. A second call for an order finds the first
    parcel."""
    s = settings()
    embedded = EmbeddedCarrier(s)
    known = await shipments.known(tx, [order.id for order in orders])
    results: dict[str, FulfilmentResult | StepError] = {}
    outside: dict[str, Shipment] = {}
    leaving: list[OrderInstance] = []
    for order in orders:
        try:
            parcel = _external_parcel(order)
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
    results |= await _mark_shipped(tx, leaving)
    going = [order for order in leaving if order.id not in results]
    here = await reservations.ship(tx, [order.id for order in going if stock_of(order) is None])
    shipped = {order.id: here[order.id] if stock_of(order) is None else stock.taken(order) for order in going}
    if lost := {i: lost for i, lost in shipped.items() if isinstance(lost, StepError)}:
        results |= lost
        await tx.execute(_SET_RECEIVED, {"ids": list(lost)})
    items = {i: items for i, items in shipped.items() if not isinstance(items, StepError)}
    serials = await shipments.serials(tx, len(items))
    parcels = [Leaving(serial, outside.get(i) or embedded.shipment(i, serial), items[i]) for serial, i in zip(serials, items, strict=True)]
    await shipments.enter(tx, parcels)
    now, by_id = await begin_of(tx), {order.id: order for order in leaving}
    for left in parcels:
        i = left.shipment.order_id
        results[i] = _result(by_id[i], left.shipment, outside.get(i), s, now)
    return results


def _external_parcel(order: OrderInstance) -> Shipment | None:
    """Returns the order's parcel at an external carrier; None for the embedded carrier. Raises RuntimeError
    if an order of an external carrier has no parcel: it must not be shipped with the embedded one."""
    parcel = booked(order)
    if parcel is None and carrier_of(order) != EMBEDDED:
        raise RuntimeError(f"order {order.id} has no parcel at its external carrier: book it before the order is shipped")
    return parcel


async def _mark_shipped(tx: Tx, leaving: Sequence[OrderInstance]) -> dict[str, StepError]:
    """Sets the orders' status to shipped, except for cancelled ones. Returns these with their errors."""
    if not leaving:
        return {}
    ids = [order.id for order in leaving]
    left = set((await tx.execute(_SET_SHIPPED, {"ids": ids})).scalars())
    if len(left) == len(ids):
        return {}
    rows = await tx.execute(_CANCEL_REASONS, {"ids": [i for i in ids if i not in left]})
    return {row.id: SagaCancelled(row.cancel_reason) for row in rows.all()}


def _result(order: OrderInstance, parcel: Any, outside: Shipment | None, s: Settings, when: datetime) -> FulfilmentResult:
    """Builds the result. `parcel`: a shipment, or its row in our table."""
    return FulfilmentResult(
        shipment_id=outside.id if outside else f"SHP-{parcel.tracking_number}",
        booked_at=carrier_of(order),
        tracking_number=parcel.tracking_number,
        carrier=parcel.carrier,
        service=parcel.service,
        label_path=str(label_path(s.label_dir, order.id)),
        shipped_at=when,
        estimated_delivery=s.estimated_delivery,
    )
