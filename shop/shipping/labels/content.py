"""What a label says. It depends on nothing but the order and its row in `shipment`, and neither changes once
the parcel is shipped: the same label can be drawn again at any time, on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from shop.orders.order import Order


class LabelFormat(StrEnum):
    """A format; also the suffix of its files."""

    PDF = "pdf"
    ZPL = "zpl"
    """For label printers: ZPL II."""

    @property
    def media_type(self) -> str:
        return f"application/{self}"


@dataclass(frozen=True, slots=True)
class Parcel:
    order_id: str
    """The number by which the customer knows the order."""
    tracking_number: str
    carrier: str
    service: str
    sender: tuple[str, ...]
    """The lines of the sender's address."""
    recipient: tuple[str, ...]
    """The lines of the recipient's address, the name first."""
    pieces: int
    country: str = ""
    """The recipient's country, which determines the form of Chinese characters."""


def parcel_of(
    order: Order, *, tracking_number: str, carrier: str, service: str, sender: Sequence[str]
) -> Parcel:
    to = order.shipping_info
    place = " ".join(part for part in (to.city, to.state, to.zip) if part) if to else ""
    name = recipient_of(order)
    return Parcel(
        order_id=order.number,
        tracking_number=tracking_number,
        carrier=carrier,
        service=service,
        sender=tuple(sender),
        recipient=tuple(filter(None, (name, to.company, to.address, to.address2, place, to.country.upper())))
        if to
        else (name,),
        pieces=sum(order.wanted.values()),
        country=to.country.upper() if to else "",
    )


def recipient_of(order: Order) -> str:
    to = order.shipping_info
    return (to.name if to else None) or order.customer_name or order.customer_id or (to and to.company) or ""
