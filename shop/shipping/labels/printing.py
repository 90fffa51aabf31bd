"""Writes an order's label, of any carrier, to the folder of labels.

Not part of the fulfilment: writing a file takes longer than the rest of an order, and a disk or a carrier
that hangs must not block orders.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from shop.orders.order import Order
from shop.settings import Settings
from shop.shipping.carrier import Shipment
from shop.shipping.carriers import EMBEDDED, carrier, close_carriers
from shop.shipping.embedded import EmbeddedCarrier
from shop.shipping.labels.files import label_path, write_label


def print_label(order: Order, shipped: Mapping[str, Any], s: Settings) -> None:
    """Writes the label unless it exists. `shipped`: fields of the fulfilment's result. Raises OSError if it
    cannot be written, and what a `Carrier` raises if it cannot be fetched. To be called in a thread without
    an event loop."""
    path = label_path(s.label_dir, order.id)
    if path.exists() or order.shipping_info is None:
        return
    if (booked_at := str(shipped.get("booked_at") or EMBEDDED)) == EMBEDDED:
        number, ours = str(shipped["tracking_number"]), EmbeddedCarrier(s)
        label = ours.render(order, Shipment(number, order.id, number, ours.title, ours.service))
    else:
        label = asyncio.run(
            _fetch(booked_at, order, str(shipped["shipment_id"]), str(shipped["tracking_number"]))
        )
    write_label(path, label)


async def _fetch(booked_at: str, order: Order, shipment_id: str, tracking_number: str) -> bytes:
    try:
        return await carrier(booked_at).label(order, shipment_id, tracking_number)
    finally:
        await close_carriers()
