"""What a carrier can do for us, whichever it is.

Shipping at a carrier outside is two moves, as charging is: `quote` (costs nothing; its id is journalled), then `create` by that id, which
buys the label. One quote is bought once at most, so that an order has one label, however often its worker dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from shop.orders.order import Order
from shop.shipping.errors import CarrierRefused


@dataclass(frozen=True, slots=True)
class Rate:
    """What a service costs for this parcel."""

    id: str
    carrier: str
    service: str
    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Quote:
    """An order's parcel as the carrier knows it, with no label yet."""

    id: str
    rates: tuple[Rate, ...]
    chosen: Rate
    """The one that `create` buys, at this price."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """A parcel with its label."""

    id: str
    """The carrier's own."""
    order_id: str
    tracking_number: str
    carrier: str
    """Who carries it, as people know it."""
    service: str
    voided: bool = False
    """Its label must not be used any more."""
    amount: Decimal = Decimal(0)
    """What the label cost."""
    currency: str = "USD"


class Status(StrEnum):
    """Where a parcel is."""

    BOOKED = "booked"
    """It has a label, and nobody has handed it over."""
    UNDER_WAY = "under_way"
    DELIVERED = "delivered"
    COMING_BACK = "coming_back"
    """Returned to the sender, or on its way there."""
    FAILED = "failed"
    VOIDED = "voided"

    @property
    def handed_over(self) -> bool:
        """Whether the carrier has, or had, the parcel."""
        return self not in {Status.BOOKED, Status.VOIDED}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a parcel."""

    at: datetime
    status: str
    """The carrier's own word."""
    message: str
    place: str = ""


@dataclass(frozen=True, slots=True)
class Tracking:
    status: Status
    events: tuple[Event, ...] = ()


class Voided(StrEnum):
    """What became of a label that is not wanted any more."""

    VOIDED = "voided"
    """It is not paid for; now, or before."""
    NOT_BOUGHT = "not_bought"
    HANDED_OVER = "handed_over"
    """Too late: the parcel has left. It comes back, or it does not."""


class AnothersParcel(CarrierRefused):
    """The shipment with this id is not this order's: another shop that uses the same account has made it."""


class Carrier(Protocol):
    """What the shop asks of a carrier. Shipments are asked for by the ids that the carrier gave us, never by the order's id: others may
    use the same account, and count their orders in the same way.

    Every method may raise `CarrierUnavailable`, its `CarrierTimeout` (it may have been done all the same) and `CarrierMismatch` (the answer
    is about another parcel, address or price), and `CarrierMisconfigured`.
    """

    name: str
    """The one that settings know it by."""

    async def quote(self, order: Order) -> Quote:
        """What shipping would cost; orders nothing. Raises `CarrierRefused`, when nothing goes there."""

    async def create(self, order: Order, quote_id: str, rate: Rate | None) -> Shipment:
        """The order's shipment: the label of this quote is looked up, and bought if it is not there: once, however often this is called.
        One that was voided since is returned as such. Raises `CarrierRefused`, with nothing bought, and its `AnothersParcel`.

        `rate`: what the quote chose. Nothing is bought if the carrier says another price now. None: an earlier version did not note it."""

    async def label(self, order: Order, shipment_id: str, tracking_number: str) -> bytes:
        """The label of the order's shipment with this number, a PDF of 4 by 6 inches. Raises `CarrierMismatch` if it is another's, or
        void."""

    async def void(self, order: Order, shipment_id: str) -> Voided:
        """Takes the order's label back unless the parcel is handed over; once, however often it is called. Also a label that is said to be
        void, or not bought, is asked back. Raises `VoidRefused`, also for a label that is another shop's, and for contradictions."""

    async def track(self, shipment_id: str) -> Tracking:
        """Where the parcel is, the oldest event first."""

    async def probe(self) -> None:
        """Asks the carrier something that changes nothing, to find out whether it can be used."""

    async def aclose(self) -> None:
        """Closes the connections."""


def choose(rates: Sequence[Rate], service: str | None) -> Rate | None:
    """The cheapest of a service (`USPS Priority`, or `Priority` whoever it is), or of all if none is given. None: there is none."""
    wanted = service.casefold().split() if service else []
    fitting = [r for r in rates if not wanted or wanted in (f"{r.carrier} {r.service}".casefold().split(), r.service.casefold().split())]
    if not fitting:
        return None
    currency = fitting[0].currency  # amounts of two currencies cannot be compared
    return min((rate for rate in fitting if rate.currency == currency), key=lambda rate: (rate.amount, rate.carrier, rate.service, rate.id))
