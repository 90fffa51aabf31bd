"""The table of shipments: one parcel per order, of any carrier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from saga.database import Tx, as_json
from shop.settings import settings
from shop.shipping.carrier import Shipment

_SERIALS = text("SELECT nextval(pg_get_serial_sequence('shipment', 'serial')) FROM generate_series(1, :n)")
_SKIP = text(
    "SELECT setval(pg_get_serial_sequence('shipment', 'serial'), "
    "nextval(pg_get_serial_sequence('shipment', 'serial')) + :n)"
)
_INSERT = text(
    "INSERT INTO shipment (order_id, serial, tracking_number, carrier, service, sender, items) "
    "SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) "
    "AS r(order_id text, serial bigint, tracking_number text, "
    "carrier text, service text, sender jsonb, items jsonb)"
)
_KNOWN = text(
    "SELECT order_id, tracking_number, carrier, service, created_at FROM shipment "
    "WHERE order_id = ANY(CAST(:ids AS text[]))"
)


@dataclass(frozen=True, slots=True)
class Leaving:
    """A parcel to ship: its unique serial, the carrier's shipment, and pieces per product."""

    serial: int
    shipment: Shipment
    items: dict[str, int]


async def serials(tx: Tx, n: int) -> list[int]:
    return list((await tx.execute(_SERIALS, {"n": n})).scalars()) if n else []


async def skip_serials(tx: Tx, n: int) -> None:
    await tx.execute(_SKIP, {"n": n})


async def known(tx: Tx, order_ids: Sequence[str]) -> dict[str, Any]:
    return {row.order_id: row for row in (await tx.execute(_KNOWN, {"ids": list(order_ids)})).all()}


async def enter(tx: Tx, parcels: Sequence[Leaving]) -> None:
    """Adds parcels of orders that have none yet."""
    shop = settings().shop
    rows = [
        {
            "order_id": parcel.shipment.order_id,
            "serial": parcel.serial,
            "tracking_number": parcel.shipment.tracking_number,
            "carrier": parcel.shipment.carrier,
            "service": parcel.shipment.service,
            "sender": [shop.name, shop.address],
            "items": parcel.items,
        }
        for parcel in parcels
    ]
    if rows:
        await tx.execute(_INSERT, {"rows": as_json(rows)})
