"""The contract of an inventory service, for its client and its server. `tests/integration/test_inventory_contract.py` is its test.

- **By order id.** Every operation may be repeated, and finds what the first one did. So whoever does not know what became of a request asks
  again, or looks it up.
- **Several shops.** An inventory may serve more than one. So what is called an order's id here is `own_order_id`: the shop's installation
  id, a slash, and the shop's own id of the order. To the inventory it is one name, which says nothing else. Names without an installation
  id are of orders that an earlier version of a shop began.
- **All or none.** An order has all its pieces, or none.
- **Over is over.** `release` and `put_back` leave a mark, also where there is nothing to give back. A request of a worker that is
  dead, which was on its way and arrives after them, reserves and ships nothing any more (`ReservationLost`).
- **Time.** What is held runs out by the inventory's own clock. An order whose reservation ran out is not over: it may reserve anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Protocol

from pydantic import Field

_OWN = re.compile(r"([0-9a-f]{16})/(.*)", re.DOTALL)
Pieces = Annotated[int, Field(ge=-(10**15), le=10**15)]
"""Pieces in an answer: what our database and JSON can hold."""
LONGEST_MARK = 17
"""Characters that an installation adds to an order's id."""


class State(StrEnum):
    """What has become of an order's reservation."""

    HELD = "held"
    EXPIRED = "expired"
    """It ran out, and what it held is anybody's. The order may reserve anew."""
    RELEASED = "released"
    """The order is over, and has nothing."""
    SHIPPED = "shipped"
    """The pieces have left the shelf. It does not run out."""
    RETURNED = "returned"
    """The order is over: the pieces left the shelf, and are on it again."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """What an order has, or had, at the inventory."""

    order_id: str
    id: str
    state: State
    items: dict[str, Pieces]
    """Pieces per product: what is held or shipped, or was before it ended. Empty: there never was anything."""
    expires_at: datetime


def own_order_id(installation: str, order_id: str) -> str:
    """What a shop's order is called at an inventory that may serve other shops, too."""
    return f"{installation}/{order_id}"


def taken_apart(own: str) -> tuple[str | None, str]:
    """The installation (None: an earlier version's order, which has none) and the shop's own id of the order."""
    found = _OWN.fullmatch(own)
    return (found[1], found[2]) if found else (None, own)


class Inventory(Protocol):
    """Raises `OutOfStock` and `ReservationLost` as said below; `InventoryUnavailable` (retryable; the result is unclear) and its
    `InventoryTimeout`, `InventoryRefused` and `InventoryMisconfigured`."""

    async def reserve(self, order_id: str, items: Mapping[str, int], *, seconds: float) -> Reservation:
        """Holds all the items (pieces per product) for so many seconds, or none. What the order has already is found, held (and then for
        at least so long) or shipped.

        Raises `OutOfStock` with every item that is short (a product that nobody knows is short with 0 available), and `ReservationLost`
        if the order is over.
        """

    async def get(self, order_id: str) -> Reservation | None:
        """What is known of the order; None: nothing ever was."""

    async def keep(self, order_id: str, *, seconds: float) -> Reservation | None:
        """What is held does not run out for so long. Changes nothing else."""

    async def release(self, order_id: str) -> Reservation:
        """The order is over: what it holds is given back. What is shipped stays shipped (that comes back by `put_back`)."""

    async def commit(self, order_id: str) -> Reservation:
        """What is held leaves the shelf, for good. Raises `ReservationLost` if nothing is held (any more)."""

    async def put_back(self, order_id: str) -> Reservation:
        """The order is over: what was shipped is on the shelf again, and what is held is given back."""

    async def aclose(self) -> None:
        """Closes the connections."""
