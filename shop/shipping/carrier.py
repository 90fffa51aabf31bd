"""The carrier interface.

Like charging, shipping with an external carrier takes two calls: `quote` (costs nothing; its id is
journalled), and `create` by that id, which buys the label. A quote is bought once at most, so that an order
has one label, however often its worker dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Protocol

from shop.orders.order import Order
from shop.shipping.errors import CarrierRefused


@dataclass(frozen=True, slots=True)
class Rate:
    """The price of a service for a parcel."""

    id: str
    carrier: str
    service: str
    amount: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Quote:
    """An order's parcel at the carrier, without a label."""

    id: str
    rates: tuple[Rate, ...]
    chosen: Rate
    """The rate that `create` buys."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """A parcel with its label."""

    id: str
    """The carrier's id."""
    order_id: str
    tracking_number: str
    carrier: str
    """The carrier's name."""
    service: str
    voided: bool = False
    """Whether the label is void and must not be used."""
    amount: Decimal = Decimal(0)
    """The price of the label."""
    currency: str = "USD"


class Voided(StrEnum):
    """The result of voiding a label."""

    VOIDED = "voided"
    """The label is void, now or already before: it is not charged."""
    NOT_BOUGHT = "not_bought"
    HANDED_OVER = "handed_over"
    """Too late: the parcel has left, and may or may not come back."""


class NotOurParcel(CarrierRefused):
    """The shipment with this id is not this order's: another shop that uses the same account created it."""


class Carrier(Protocol):
    """A carrier. Shipments are looked up by the carrier's ids, never by the order's id: other shops may use
    the same account, with the same order ids.

    Every method may raise `CarrierMisconfigured`, and `CarrierUnavailable` with its subclasses
    `CarrierTimeout` (the request may have been executed) and `CarrierMismatch` (the answer is about a
    different parcel, address or price).
    """

    name: str
    """The name in the settings."""

    async def quote(self, order: Order) -> Quote:
        """Returns the price of shipping; buys nothing. Raises `CarrierRefused` if the carrier does not
        deliver there."""

    async def create(self, order: Order, quote_id: str, rate: Rate | None) -> Shipment:
        """Returns the order's shipment: looks up the label of this quote, and buys it if needed. Buys once,
        however often it is called. Returns a voided label as voided. Raises `CarrierRefused`, with nothing
        bought, or its subclass `NotOurParcel`.

        `rate`: the quote's chosen rate; nothing is bought if the price has changed. None: an earlier version
        did not journal it.
        """

    async def label(self, order: Order, shipment_id: str, tracking_number: str) -> bytes:
        """Returns the label of the order's shipment with this number, a PDF of 4 by 6 inches. Raises
        `CarrierMismatch` if it belongs to another order, or is void."""

    async def void(self, order: Order, shipment_id: str) -> Voided:
        """Voids the order's label unless the parcel is handed over. Idempotent. Also requests a refund for
        labels that are reported as void or not bought. Raises `VoidRefused`, also for another shop's label,
        and for contradictory answers."""

    async def probe(self) -> None:
        """Checks whether the carrier can be used, with a request that changes nothing."""

    async def aclose(self) -> None:
        """Closes the connections."""


def choose(rates: Sequence[Rate], service: str | None) -> Rate | None:
    """Returns the cheapest rate of a service (`USPS Priority`, or `Priority` of any carrier), or of all if
    none is given. None if there is no such rate."""
    wanted = service.casefold().split() if service else []
    matching = [
        r
        for r in rates
        if not wanted
        or wanted in (f"{r.carrier} {r.service}".casefold().split(), r.service.casefold().split())
    ]
    if not matching:
        return None
    currency = matching[0].currency  # amounts of two currencies cannot be compared
    return min(
        (rate for rate in matching if rate.currency == currency),
        key=lambda rate: (rate.amount, rate.carrier, rate.service, rate.id),
    )
