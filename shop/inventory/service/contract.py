"""The contract of an inventory service, for its client and its server.
`tests/integration/test_inventory_contract.py` tests both.

- **Idempotent by order id.** Every operation may be repeated, and finds the result of the first call. A
  caller that does not know the result of a request repeats it, or looks it up.
- **Several shops.** An inventory may serve more than one shop. Therefore an order's id here is its
  `own_order_id`: the shop's installation id, a slash, and the shop's own id of the order; for a later try of
  the order, the installation id is followed by a dot and the try's number, because an order that has ended
  cannot reserve again. To the inventory it is an opaque name. Names without an installation id belong to
  orders that an earlier version of a shop began.
- **All or none.** An order has all its pieces, or none.
- **Final.** `release` and `put_back` end the order, even if nothing was reserved. A late request of a dead
  worker then reserves and ships nothing (`ReservationLost`).
- **Expiry.** Reservations expire by the inventory's own clock. An expired reservation does not end the order:
  it may reserve again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Protocol

from pydantic import Field

from shop.orders.tries import marked

_OWN = re.compile(r"([0-9a-f]{16})(?:\.[0-9]{1,2})?/(.*)", re.DOTALL)
Pieces = Annotated[int, Field(ge=-(10**15), le=10**15)]
"""Pieces in an answer, limited to what our database and JSON can represent."""
LONGEST_MARK = 20
"""The characters that an installation id, the number of a try and a slash add to an order's id."""


class State(StrEnum):
    """The state of an order's reservation."""

    HELD = "held"
    EXPIRED = "expired"
    """It expired, and its pieces are available to other orders. The order may reserve again."""
    RELEASED = "released"
    """The order has ended and holds nothing."""
    SHIPPED = "shipped"
    """The pieces have left the stock. This state does not expire."""
    RETURNED = "returned"
    """The order has ended: the pieces left the stock and were returned."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """An order's current or former reservation at the inventory."""

    order_id: str
    id: str
    state: State
    items: dict[str, Pieces]
    """Pieces per product that are held, shipped or expired, or were held or shipped when it ended. Empty: it
    ended and held nothing."""
    expires_at: datetime


def own_order_id(installation: str, order_id: str, try_number: int = 1) -> str:
    """Returns the name of a shop's order, in this try, at an inventory that may serve several shops."""
    return f"{marked(installation, try_number)}/{order_id}"


def split_own_order_id(own: str) -> tuple[str | None, str]:
    """Splits an `own_order_id` into the installation id (None: an earlier version's order) and the shop's own
    id."""
    found = _OWN.fullmatch(own)
    return (found[1], found[2]) if found else (None, own)


class Inventory(Protocol):
    """An inventory. All operations may raise `InventoryUnavailable` (retryable; the result is unclear) or a
    subclass, `InventoryRefused` and `InventoryMisconfigured`."""

    async def reserve(self, order_id: str, items: Mapping[str, int], *, seconds: float) -> Reservation:
        """Reserves all items (pieces per product) for this many seconds, or none. Returns an existing
        reservation that is held (extended to at least this long) or shipped.

        Raises `OutOfStock` with every item that is short (of an unknown product 0 are available), and
        `ReservationLost` if the order has ended.
        """

    async def get(self, order_id: str) -> Reservation | None:
        """Returns the order's current or former reservation; None if it has none."""

    async def keep(self, order_id: str, *, seconds: float) -> Reservation | None:
        """Extends a held reservation to at least this many seconds from now. Changes nothing else. Returns
        the order's reservation; None if it has none."""

    async def release(self, order_id: str) -> Reservation:
        """Ends the order: what it holds is available again. Shipped pieces stay shipped (see `put_back`)."""

    async def commit(self, order_id: str) -> Reservation:
        """Ships what is held: it leaves the stock. Raises `ReservationLost` if nothing is held."""

    async def put_back(self, order_id: str) -> Reservation:
        """Ends the order: shipped pieces are in stock again, and held pieces are available again."""

    async def aclose(self) -> None:
        """Closes the connections."""
