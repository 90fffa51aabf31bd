"""Who takes the parcels, and what they number them with."""

from __future__ import annotations

from typing import Protocol

from shop.errors import CarrierRefused
from shop.order import Order
from shop.settings import Settings

SERIALS_PER_PAIR = 10**8
_WEIGHTS = (8, 6, 4, 2, 3, 5, 9, 7)
_PAIRS = [first + second for first in "CH" for second in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
"""C are parcels and H those of online shops, in the order in which they are used up."""


class Carrier(Protocol):
    """What the fulfilment asks of a carrier."""

    @property
    def name(self) -> str:
        """As printed on the label."""

    @property
    def service(self) -> str:
        """As printed on the label."""

    def check(self, order: Order) -> None:
        """Raises `CarrierRefused` if it will not take this order's parcel."""

    def tracking_number(self, serial: int) -> str:
        """The tracking number of the parcel with this serial, never the same for two."""


class EmbeddedCarrier:
    """A carrier within the program, for development and for tests. Takes every parcel but those to `carrier_refuses`."""

    name = "Embedded Carrier"
    service = "Standard"
    origin = "US"

    def __init__(self, settings: Settings) -> None:
        self._refuses = frozenset(country.strip().upper() for country in settings.carrier_refuses)

    def check(self, order: Order) -> None:
        if order.shipping_info is None:
            raise CarrierRefused("the embedded carrier cannot deliver an order without shipping_info")
        country = order.shipping_info.country.strip().upper()
        if country in self._refuses:
            raise CarrierRefused(f"the embedded carrier does not deliver to {country}")

    def tracking_number(self, serial: int) -> str:
        """UPU S10: two letters, eight digits, a check digit, the country of origin. After 99,999,999 come the next letters."""
        pair, number = divmod(serial, SERIALS_PER_PAIR)
        if not 0 <= pair < len(_PAIRS):
            raise ValueError(f"serial {serial} is not between 0 and {len(_PAIRS) * SERIALS_PER_PAIR - 1}")
        digits = f"{number:08d}"
        return f"{_PAIRS[pair]}{digits}{check_digit(digits)}{self.origin}"


def check_digit(serial: str) -> int:
    """S10's check digit of eight digits."""
    rest = 11 - sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, serial, strict=True)) % 11
    return {10: 0, 11: 5}.get(rest, rest)
