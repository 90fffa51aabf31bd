"""Fetches the label of an order's parcel from an external carrier into the folder of labels.

Not part of the fulfilment: a disk or a carrier that hangs must not block orders. Right before the mail, so
that no customer is notified of a parcel without a label. Other machines fetch it on request (`stored`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from saga.failpoints import failpoint
from shop.orders.order import Order
from shop.settings import Settings
from shop.shipping.carriers import EMBEDDED, carrier, close_carriers
from shop.shipping.labels.files import label_path, write_label

_FETCHING = failpoint("fetching a label")


def fetch_label(order: Order, shipped: Mapping[str, Any], s: Settings) -> None:
    """Fetches the label, unless the embedded carrier has the parcel, or the file exists. `shipped`: fields of
    the fulfilment's result. Raises what a `Carrier` raises, and OSError if the label cannot be written. To be
    called in a thread without an event loop."""
    if (booked_at := str(shipped.get("booked_at") or EMBEDDED)) == EMBEDDED:
        return
    path = label_path(s.label_dir, order.id)
    if path.exists() or order.shipping_info is None:
        return
    with _FETCHING:
        label = asyncio.run(
            _fetch(booked_at, order, str(shipped["shipment_id"]), str(shipped["tracking_number"]))
        )
        write_label(path, label)


async def _fetch(booked_at: str, order: Order, shipment_id: str, tracking_number: str) -> bytes:
    try:
        return await carrier(booked_at).label(order, shipment_id, tracking_number)
    finally:
        await close_carriers()
