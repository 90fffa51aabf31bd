"""Finds the label of an order, for those who print it, on any machine. The embedded carrier's is drawn when
it is asked for, from the order and its shipment; another carrier's is the file that this machine has, or else
fetched from the carrier, by the shipment's id in the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import text

from saga.database import transaction
from saga.failpoints import failpoint
from shop.orders.errors import UnusableOrder
from shop.orders.intake_content import usable_id
from shop.orders.names import file_stems
from shop.orders.order import Order, read_stored
from shop.runtime.files import has_exact_name, write_atomic
from shop.settings import Settings, settings
from shop.shipping.carriers import EMBEDDED, STEP, carrier, close_carriers
from shop.shipping.embedded import label_content, render
from shop.shipping.errors import CarrierMisconfigured, CarrierRefused, CarrierUnavailable
from shop.shipping.labels.content import LabelFormat, Parcel

_FIND = text(
    """
    SELECT s.*, o.content, o.erased_at, j.result ->> 'booked_at' AS booked_at,
        j.result ->> 'shipment_id' AS shipment_id
    FROM customer_order o JOIN shipment s ON s.order_id = o.id
    LEFT JOIN order_step j ON j.order_id = o.id AND j.step = :step
    WHERE o.id = :id
    """
)
_SHIPPED = text(
    "SELECT order_id FROM shipment WHERE created_at >= :since AND created_at < :until "
    "AND returned_at IS NULL ORDER BY created_at, order_id"
)
_FETCHING = failpoint("fetching a label")


class NoLabel(Exception):
    """There is no such label. The message says why, without customer data."""


class LabelGone(NoLabel):
    """There was a label, and there will be none again: the parcel came back, or its customer's data is
    erased."""


class LabelUnavailable(NoLabel):
    """The carrier has the label, and does not return it now."""


@dataclass(frozen=True, slots=True)
class Label:
    """An order's label: what it says, or the PDF that another carrier made."""

    content: Parcel | bytes

    def render(self, label_format: LabelFormat, dots_per_inch: int = 203) -> bytes:
        """Returns the label in this format, ZPL for printers of this resolution. Takes milliseconds: not for
        an event loop. Raises `NoLabel` if the carrier made no label of this format, and `MissingExtra`
        without the extra `labels`."""
        if isinstance(self.content, Parcel):
            return render(self.content, label_format, dots_per_inch)
        if label_format is not LabelFormat.PDF:
            raise NoLabel(f"the carrier made this order's label as a PDF, not as {label_format.upper()}")
        return self.content


async def find_label(order_id: str, *, keep: bool = False) -> Label:
    """Returns the order's label. `keep`: in `VAR_DIR`, if it is fetched from a carrier; for processes that
    delete the files of erased customers there. Raises `NoLabel` or its subclasses `LabelGone` and
    `LabelUnavailable`, and `MissingExtra` without the carrier's extra."""
    try:
        values = {"id": usable_id(order_id), "step": STEP}
    except UnusableOrder:
        raise NoLabel("no order has this id") from None
    async with transaction() as tx:
        row = (await tx.execute(_FIND, values)).one_or_none()
    if row is None:
        raise NoLabel("this order has no parcel")
    if row.returned_at is not None:
        raise LabelGone("this order's parcel was returned: its label is void")
    if row.erased_at is not None:
        raise LabelGone("the customer's data of this order is erased")
    if (row.booked_at or EMBEDDED) == EMBEDDED:
        return Label(label_content(row, settings()))
    path = label_path(settings().label_dir, row.order_id)  # as asked for, it may have spaces around it
    if (known := await asyncio.to_thread(_read, path)) is not None:
        return Label(known)
    fetched = await _fetch(row)
    if keep:
        with suppress(OSError):  # it is fetched again next time
            await asyncio.to_thread(write_label, path, fetched)
    return Label(fetched)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


async def _fetch(row: Any) -> bytes:
    """Fetches the label again from the carrier that has the parcel."""
    if row.shipment_id is None:
        raise NoLabel("the journal has no id of this order's shipment at the carrier")
    order = read_stored(row.content)
    try:
        return await carrier(row.booked_at).label(order, row.shipment_id, row.tracking_number)
    except (CarrierUnavailable, CarrierRefused, CarrierMisconfigured) as error:
        raise LabelUnavailable(f"{row.booked_at} does not return the label: {error}") from error


async def shipped(since: datetime, until: datetime) -> list[str]:
    """Returns the ids of the orders that were shipped from `since` until before `until`, the earliest first,
    without those whose parcel was returned."""
    async with transaction() as tx:
        return list((await tx.execute(_SHIPPED, {"since": since, "until": until})).scalars())


def label_path(label_dir: Path, order_id: str) -> Path:
    """Where the order's label is, or will be."""
    path, *before = label_paths(label_dir, order_id)
    return (
        next((each for each in before if has_exact_name(each)), path)
        if before and not path.exists()
        else path
    )


def label_paths(label_dir: Path, order_id: str) -> list[Path]:
    """Where it may be: also under the name of earlier versions."""
    return [label_dir / f"{name}.pdf" for name in file_stems(order_id)]


def write_label(path: Path, label: bytes) -> None:
    """Wholly or not at all; writing the same label again changes nothing."""
    write_atomic(path, label)


def fetch_label(order: Order, shipped: Mapping[str, Any], s: Settings) -> None:
    """Fetches the label, unless the embedded carrier has the parcel, or the file exists. `shipped`: fields of
    the fulfilment's result. Raises what a `Carrier` raises, and OSError if the label cannot be written. To be
    called in a thread without an event loop.

    Not part of the fulfilment: a disk or a carrier that hangs must not block orders. Right before the mail,
    so that no customer is notified of a parcel without a label. Other machines fetch it on request."""
    if (booked_at := str(shipped.get("booked_at") or EMBEDDED)) == EMBEDDED:
        return
    path = label_path(s.label_dir, order.id)
    if path.exists() or order.shipping_info is None:
        return
    with _FETCHING:
        label = asyncio.run(
            _fetch_once(booked_at, order, str(shipped["shipment_id"]), str(shipped["tracking_number"]))
        )
        write_label(path, label)


async def _fetch_once(booked_at: str, order: Order, shipment_id: str, tracking_number: str) -> bytes:
    try:
        return await carrier(booked_at).label(order, shipment_id, tracking_number)
    finally:
        await close_carriers()
