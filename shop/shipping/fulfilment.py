"""The pivot: stock leaves the shelf, a parcel gets its number, the order's status says so. One transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel
from sqlalchemy import text

from shop import inventory
from shop.database import Tx, as_json
from shop.errors import CarrierRefused, OrderCancelled, OrderError
from shop.order import Order
from shop.settings import Settings, settings
from shop.shipping.carrier import EmbeddedCarrier
from shop.shipping.label import Parcel, label_path, render_label, write_label
from shop.under_way import OrderUnderWay

STEP = "fulfill_order"
_SHIPPED = text("SELECT order_id, tracking_number, created_at FROM shipment WHERE order_id = ANY(CAST(:ids AS text[]))")
_SERIALS = text("SELECT nextval(pg_get_serial_sequence('shipment', 'serial')) FROM generate_series(1, :n)")
_INSERT = text(
    "INSERT INTO shipment (order_id, serial, tracking_number, carrier, service, label_path, items) "
    "SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) "
    "AS r(order_id text, serial bigint, tracking_number text, carrier text, service text, label_path text, items jsonb)"
)
# The point of no return, against those who cancel: both write the order's row, so that one of them is first and the other sees it.
_LEAVE = text(
    "UPDATE customer_order SET status = 'shipped' WHERE id = ANY(CAST(:ids AS text[])) AND cancel_requested_at IS NULL RETURNING id"
)
_WHY_NOT = text("SELECT id, cancel_reason FROM customer_order WHERE id = ANY(CAST(:ids AS text[]))")
_STAY = text("UPDATE customer_order SET status = 'received' WHERE id = ANY(CAST(:ids AS text[]))")


class FulfilmentResult(BaseModel):
    """What `fulfill_order` produces."""

    fulfillment_status: Literal["shipped"] = "shipped"
    shipment_id: str
    tracking_number: str
    carrier: str
    service: str
    label_path: str
    shipped_at: datetime
    estimated_delivery: str


async def fulfil(tx: Tx, orders: Sequence[OrderUnderWay]) -> dict[str, FulfilmentResult | OrderError]:
    """Ships what can be shipped, and nothing that is to be cancelled. A second call for the same order finds the first one's parcel."""
    carrier, s = EmbeddedCarrier(settings()), settings()
    known = {row.order_id: row for row in (await tx.execute(_SHIPPED, {"ids": [order.id for order in orders]})).all()}
    results: dict[str, FulfilmentResult | OrderError] = {
        i: _result(i, row.tracking_number, carrier, s, row.created_at) for i, row in known.items()
    }
    leaving: list[OrderUnderWay] = []
    for order in orders:
        if order.id in known:
            continue
        try:
            carrier.check(order.order)
        except CarrierRefused as refusal:
            results[order.id] = refusal
        else:
            leaving.append(order)
    results |= await _stopped(tx, leaving)
    shipped = await inventory.ship(tx, [order.id for order in leaving if order.id not in results])
    if lost := {i: lost for i, lost in shipped.items() if isinstance(lost, OrderError)}:
        results |= lost
        await tx.execute(_STAY, {"ids": list(lost)})
    parcels = {i: items for i, items in shipped.items() if not isinstance(items, OrderError)}
    if not parcels:
        return results
    serials = (await tx.execute(_SERIALS, {"n": len(parcels)})).scalars().all()
    rows = []
    for serial, (order_id, items) in zip(serials, parcels.items(), strict=True):
        result = _result(order_id, carrier.tracking_number(serial), carrier, s, datetime.now(UTC))
        rows.append(
            {
                "order_id": order_id,
                "serial": serial,
                "tracking_number": result.tracking_number,
                "carrier": result.carrier,
                "service": result.service,
                "label_path": result.label_path,
                "items": items,
            }
        )
        results[order_id] = result
    await tx.execute(_INSERT, {"rows": as_json(rows)})
    return results


async def _stopped(tx: Tx, leaving: Sequence[OrderUnderWay]) -> dict[str, OrderError]:
    """Says of the orders that they are shipped, and returns those that somebody has asked to cancel: they are not."""
    if not leaving:
        return {}
    ids = [order.id for order in leaving]
    left = set((await tx.execute(_LEAVE, {"ids": ids})).scalars())
    if len(left) == len(ids):
        return {}
    rows = await tx.execute(_WHY_NOT, {"ids": [i for i in ids if i not in left]})
    return {row.id: OrderCancelled(row.cancel_reason) for row in rows.all()}


def print_label(order: Order, tracking_number: str, s: Settings) -> None:
    """Writes the label unless it is there. OSError if it cannot be written.

    Not part of `fulfil`: a file costs more than all the rest of an order, and a disk that hangs must not hold up the orders under way.
    """
    path = label_path(s.label_dir, order.id)
    if path.exists() or order.shipping_info is None:
        return
    carrier, to = EmbeddedCarrier(s), order.shipping_info
    place = " ".join(part for part in (to.city, to.state, to.zip) if part)
    recipient = (to.name or order.customer_name or order.customer_id, to.address, place, to.country.upper())
    parcel = Parcel(
        order_id=order.id,
        tracking_number=tracking_number,
        carrier=carrier.name,
        service=carrier.service,
        sender=(s.shop_name, s.shop_address),
        recipient=recipient,
        pieces=sum(order.wanted.values()),
    )
    write_label(path, render_label(parcel))


def _result(order_id: str, tracking_number: str, carrier: EmbeddedCarrier, s: Settings, when: datetime) -> FulfilmentResult:
    return FulfilmentResult(
        shipment_id=f"SHP-{tracking_number}",
        tracking_number=tracking_number,
        carrier=carrier.name,
        service=carrier.service,
        label_path=str(label_path(s.label_dir, order_id)),
        shipped_at=when,
        estimated_delivery=s.estimated_delivery,
    )
