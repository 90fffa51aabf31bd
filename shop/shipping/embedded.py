"""Embedded carrier for development and tests. Its records are in our database, so that a parcel is booked in
the transaction that ships the stock.

It accepts every parcel except those to `CARRIER_REFUSES`, and never picks one up.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlalchemy import text

from saga.database import transaction
from shop.orders import names
from shop.orders.order import Order, read_stored
from shop.runtime.extras import needs_extra
from shop.settings import Settings
from shop.shipping import shipments
from shop.shipping.carrier import Event, Quote, Rate, Shipment, Status, Tracking, Voided
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


_LOCK = text("SELECT 1 FROM customer_order WHERE id = :id FOR UPDATE")
_FIND = text(
    "SELECT s.*, o.content FROM shipment s "
    "JOIN customer_order o ON o.id = s.order_id WHERE s.order_id = :id OR s.tracking_number = :id"
)
_VOID = text("UPDATE shipment SET returned_at = now() WHERE tracking_number = :id AND returned_at IS NULL")


class EmbeddedCarrier:
    """The embedded `Carrier`. A shipment's id is its tracking number."""

    name = "embedded"
    title = "Embedded Carrier"
    """The name on the label."""
    service = "Standard"
    origin = "US"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
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
        return self._shipment(order_id, tracking_number(serial, self.origin))

    def _shipment(self, order_id: str, tracking_number: str, *, voided: bool = False) -> Shipment:
        return Shipment(tracking_number, order_id, tracking_number, self.title, self.service, voided)

    async def quote(self, order: Order) -> Quote:
        self.check(order)
        rate = Rate("standard", self.title, self.service, Decimal(0), order.currency)
        return Quote(names.stem(order.id), (rate,), rate)

    async def create(self, order: Order, quote_id: str, rate: Rate | None) -> Shipment:  # noqa: ARG002  (every order has one here)
        """Books a parcel in a separate transaction, without moving stock. The fulfilment books its parcels in
        its own transaction."""
        self.check(order)
        async with transaction() as tx:
            await tx.execute(_LOCK, {"id": order.id})  # serialises concurrent calls
            row = (await tx.execute(_FIND, {"id": order.id})).one_or_none()
            if row is not None:
                return self._shipment(order.id, row.tracking_number, voided=row.returned_at is not None)
            (serial,) = await shipments.serials(tx, 1)
            booked = self.shipment(order.id, serial)
            await shipments.enter(tx, [shipments.Leaving(serial, booked, order.wanted)])
            return booked

    async def label(self, order: Order, shipment_id: str, tracking_number: str) -> bytes:  # noqa: ARG002  (its table has our parcels only)
        row = await self._load(shipment_id)
        return render(label_content(row, self._settings), LabelFormat.PDF)

    async def void(self, order: Order, shipment_id: str) -> Voided:  # noqa: ARG002  (its table has our parcels only)
        """Voids the label without moving stock. The saga's compensation (`shop.shipping.fulfilment`) also
        restocks."""
        async with transaction() as tx:
            voided = (await tx.execute(_VOID, {"id": shipment_id})).rowcount
        return Voided.VOIDED if voided or await self._row(shipment_id) is not None else Voided.NOT_BOUGHT

    async def track(self, shipment_id: str) -> Tracking:
        row = await self._load(shipment_id)
        events = [Event(row.created_at, "booked", "The parcel has its label")]
        if row.returned_at is not None:
            events.append(Event(row.returned_at, "voided", "The label is void"))
        return Tracking(Status.BOOKED if row.returned_at is None else Status.VOIDED, tuple(events))

    async def _load(self, shipment_id: str) -> Any:
        if (row := await self._row(shipment_id)) is None:
            raise CarrierRefused("the embedded carrier has no such shipment")
        return row

    async def _row(self, any_id: str) -> Any:
        async with transaction() as tx:
            return (await tx.execute(_FIND, {"id": any_id})).one_or_none()

    async def probe(self) -> None:
        """It can be used if labels can be drawn. Raises `MissingExtra`."""
        with needs_extra("labels", "CARRIER=embedded"):
            import shop.shipping.labels.pdf  # noqa: F401

    async def aclose(self) -> None:
        """Does nothing: there are no connections."""


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
