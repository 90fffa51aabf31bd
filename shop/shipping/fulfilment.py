"""The pivot: ships the stock, assigns the parcel's tracking number and sets the order's status, in one
transaction.

Its compensation is one transaction, too. The embedded carrier's parcels and the embedded stock are part of
both. External systems are called before (`shop.shipping.booking`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel
from sqlalchemy import text

from saga.clock import begin_of
from saga.database import Tx
from saga.errors import StepError
from shop.inventory import stock
from shop.notifications import notices
from shop.notifications.kinds import Kind
from shop.orders.changes import mark_shipped, unmark_shipped
from shop.orders.order import OrderInstance
from shop.settings import settings
from shop.shipping import shipments
from shop.shipping.booking import booked
from shop.shipping.carrier import Shipment, Voided
from shop.shipping.carriers import EMBEDDED, STEP, carrier_of
from shop.shipping.embedded import EmbeddedCarrier
from shop.shipping.errors import CarrierRefused
from shop.shipping.shipments import Leaving


class FulfilmentResult(BaseModel):
    """The result of `fulfill_order`."""

    fulfillment_status: Literal["shipped", "nothing_to_ship"] = "shipped"
    shipment_id: str | None = None
    """The carrier's id; ours for the embedded carrier. None, as what follows, if nothing is shipped."""
    booked_at: str | None = None
    """The carrier's name in the settings."""
    tracking_number: str | None = None
    carrier: str | None = None
    service: str | None = None
    shipped_at: datetime
    estimated_delivery: str | None = None


async def fulfil(tx: Tx, orders: Sequence[OrderInstance]) -> dict[str, FulfilmentResult | StepError]:
    """Ships the orders that can be shipped and are not cancelled. A second call for an order finds the first
    parcel."""
    parcels_due = [order for order in orders if order.payload.needs_shipment]
    known = await shipments.known(tx, [order.id for order in parcels_due])
    found = {order.id: _known_or_refused(order, known.get(order.id)) for order in parcels_due}
    results: dict[str, FulfilmentResult | StepError] = {i: each for i, each in found.items() if each}
    leaving = [order for order in orders if order.id not in results]
    results |= await mark_shipped(tx, [order.id for order in leaving])
    shipped = await stock.ship(tx, [order for order in leaving if order.id not in results])
    lost = {i: each for i, each in shipped.items() if isinstance(each, StepError)}
    await unmark_shipped(tx, list(lost))
    items = {i: dict(each) for i, each in shipped.items() if not isinstance(each, StepError)}
    going = [order for order in leaving if order.id in items]
    return {**results, **lost, **await _ship(tx, going, items)}


def _known_or_refused(order: OrderInstance, row: Any) -> FulfilmentResult | CarrierRefused | None:
    """Returns the result of an order that has a parcel (`row`), or the refusal of one that the embedded
    carrier does not accept; None for an order to ship."""
    parcel = _external_parcel(order)
    if row is not None:
        return _result(order, row, row.created_at)
    try:
        if parcel is None:
            EmbeddedCarrier(settings()).check(order.payload)
    except CarrierRefused as refusal:
        return refusal
    return None


async def _ship(
    tx: Tx, orders: Sequence[OrderInstance], items: Mapping[str, dict[str, int]]
) -> dict[str, FulfilmentResult]:
    """Adds the parcels of orders whose pieces (`items`, by order) have left the stock."""
    now, embedded = await begin_of(tx), EmbeddedCarrier(settings())
    parcels_due = [order for order in orders if order.payload.needs_shipment]
    serials = await shipments.serials(tx, len(parcels_due))
    parcels = {
        order.id: Leaving(
            serial, _external_parcel(order) or embedded.shipment(order.id, serial), items[order.id]
        )
        for serial, order in zip(serials, parcels_due, strict=True)
    }
    await shipments.enter(tx, list(parcels.values()))
    return {
        order.id: _result(order, parcels[order.id].shipment, now)
        if order.id in parcels
        else FulfilmentResult(fulfillment_status="nothing_to_ship", shipped_at=now)
        for order in orders
    }


def _external_parcel(order: OrderInstance) -> Shipment | None:
    """Returns the order's parcel at an external carrier; None for the embedded carrier. Raises RuntimeError
    if an order of an external carrier has no parcel: it must not be shipped with the embedded one."""
    parcel = booked(order)
    if parcel is None and carrier_of(order) != EMBEDDED:
        raise RuntimeError(
            f"order {order.id} has no parcel at its external carrier: book it before the order is shipped"
        )
    return parcel


def _result(order: OrderInstance, parcel: Any, when: datetime) -> FulfilmentResult:
    """Builds the result. `parcel`: a shipment, or its row in our table."""
    outside = _external_parcel(order)
    return FulfilmentResult(
        shipment_id=outside.id if outside else f"SHP-{parcel.tracking_number}",
        booked_at=carrier_of(order),
        tracking_number=parcel.tracking_number,
        carrier=parcel.carrier,
        service=parcel.service,
        shipped_at=when,
        estimated_delivery=settings().shipping.estimated_delivery,
    )


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
        items, entry = dict(in_stock.get(order.id, {})), order.journal.get(STEP)
        label = entry.notes.get("label") if entry else None
        undone = bool(items) or label not in {None, Voided.NOT_BOUGHT}
        results[order.id] = ReturnResult(
            compensation_status="success" if undone else "no_shipment_to_return",
            label=label,
            returned_items=items,
            return_timestamp=now if undone else None,
        )
    return results
