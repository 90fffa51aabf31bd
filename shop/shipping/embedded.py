"""Embedded carrier for development and tests. Its records are in our database, so that a parcel is booked in
the transaction that ships the stock.

It accepts every parcel except those to `CARRIER_REFUSES`, and never picks one up.
"""

from __future__ import annotations

from typing import Any

from shop.orders.order import Order, read_stored
from shop.runtime.extras import needs_extra
from shop.settings import Settings
from shop.shipping.carrier import Shipment
from shop.shipping.errors import CarrierRefused
from shop.shipping.labels.content import LabelFormat, Parcel, parcel_of

SERIALS_PER_PAIR = 10**8
_WEIGHTS = (8, 6, 4, 2, 3, 5, 9, 7)
_PAIRS = [first + second for first in "CH" for second in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
"""Service indicators (C: parcels, H: parcels of online shops), in the sequence of use."""


def tracking_number(serial: int, origin: str) -> str:
    """Returns the tracking number: two letters, eight digits, a check digit, and the country of origin. After
    99,999,999 the next letters follow."""
    pair, number = divmod(serial, SERIALS_PER_PAIR)
    if not 0 <= pair < len(_PAIRS):
        raise ValueError(f"serial {serial} is not between 0 and {len(_PAIRS) * SERIALS_PER_PAIR - 1}")
    digits = f"{number:08d}"
    return f"{_PAIRS[pair]}{digits}{check_digit(digits)}{origin}"


def check_digit(serial: str) -> int:
    """Returns the check digit of eight digits."""
    rest = 11 - sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, serial, strict=True)) % 11
    return {10: 0, 11: 5}.get(rest, rest)


class EmbeddedCarrier:
    """What the embedded carrier accepts, and its parcels. It is no `Carrier`: nothing outside is called."""

    name = "embedded"
    title = "Embedded Carrier"
    """The name on the label."""
    service = "Standard"
    origin = "US"

    def __init__(self, settings: Settings) -> None:
        self._refuses = frozenset(country.strip().upper() for country in settings.shipping.refuses)

    def check(self, order: Order) -> None:
        """Raises `CarrierRefused` if the carrier does not accept this order's parcel."""
        if order.shipping_info is None:
            raise CarrierRefused("the embedded carrier cannot deliver an order without shipping_info")
        country = order.shipping_info.country.strip().upper()
        if country in self._refuses:
            raise CarrierRefused("the embedded carrier does not deliver to this country")

    def shipment(self, order_id: str, serial: int) -> Shipment:
        """Returns the parcel with this unique serial, for `shipments.enter`."""
        number = tracking_number(serial, self.origin)
        return Shipment(number, order_id, number, self.title, self.service)


def check_labels() -> None:
    """Raises `MissingExtra` if labels cannot be drawn."""
    with needs_extra("labels", "CARRIER=embedded"):
        import shop.shipping.labels.pdf  # noqa: F401


def label_content(row: Any, s: Settings) -> Parcel:
    """Returns what the label says. `row`: the shipment's, with the order's `content`."""
    return parcel_of(
        read_stored(row.content),
        tracking_number=row.tracking_number,
        carrier=row.carrier,
        service=row.service,
        sender=row.sender or (s.shop.name, s.shop.address),  # earlier versions did not store it
    )


def render(parcel: Parcel, label_format: LabelFormat, dots_per_inch: int = 203) -> bytes:
    """Renders a label. Raises `MissingExtra` without the extra `labels`."""
    with needs_extra("labels", "CARRIER=embedded"):
        from shop.shipping.labels.pdf import render_pdf
        from shop.shipping.labels.zpl import render_zpl
    return render_pdf(parcel) if label_format is LabelFormat.PDF else render_zpl(parcel, dots_per_inch)
