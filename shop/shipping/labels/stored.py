"""Finds the label of an order, for those who print it. The embedded carrier's is drawn when it is asked for,
from the order and its shipment; another carrier's is the file that was fetched from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import text

from saga.database import transaction
from shop.orders.errors import UnusableOrder
from shop.orders.intake_content import usable_id
from shop.settings import settings
from shop.shipping.carriers import EMBEDDED, STEP
from shop.shipping.embedded import label_content, render
from shop.shipping.labels.content import Parcel
from shop.shipping.labels.files import label_path
from shop.shipping.labels.formats import LabelFormat

_FIND = text(
    """
    SELECT s.*, o.content, o.erased_at,
        (SELECT j.result ->> 'booked_at' FROM order_step j
            WHERE j.order_id = o.id AND j.step = :step) AS booked_at
    FROM customer_order o JOIN shipment s ON s.order_id = o.id WHERE o.id = :id
    """
)
_SHIPPED = text(
    "SELECT order_id FROM shipment WHERE created_at >= :since AND created_at < :until "
    "AND returned_at IS NULL ORDER BY created_at, order_id"
)


class NoLabel(Exception):
    """There is no such label. The message says why, without customer data."""


class LabelGone(NoLabel):
    """There was a label, and there will be none again: the parcel came back, or its customer's data is
    erased."""


@dataclass(frozen=True, slots=True)
class Label:
    """An order's label: what it says, or the file that another carrier made."""

    content: Parcel | Path

    def render(self, label_format: LabelFormat, dots_per_inch: int = 203) -> bytes:
        """Returns the label in this format, ZPL for printers of this resolution. Takes milliseconds: not for
        an event loop. Raises `NoLabel` if the carrier made no label of this format, `MissingExtra` without
        the extra `labels`, and OSError if the file cannot be read."""
        if isinstance(self.content, Parcel):
            return render(self.content, label_format, dots_per_inch)
        if label_format is not LabelFormat.PDF:
            raise NoLabel(f"the carrier made this order's label as a PDF, not as {label_format.upper()}")
        return self.content.read_bytes()


async def find_label(order_id: str) -> Label:
    """Returns the order's label. Raises `NoLabel`, or its subclass `LabelGone`."""
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
    path = label_path(settings().label_dir, order_id)
    if not path.is_file():
        raise NoLabel(
            f"the label is in VAR_DIR of the machine that sent the order's mail, which fetched it from "
            f"{row.booked_at}"
        )
    return Label(path)


async def shipped(since: datetime, until: datetime) -> list[str]:
    """Returns the ids of the orders that were shipped from `since` until before `until`, the earliest first,
    without those whose parcel was returned."""
    async with transaction() as tx:
        return list((await tx.execute(_SHIPPED, {"since": since, "until": until})).scalars())
