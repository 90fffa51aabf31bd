"""The messages between an inventory service and its client.

Errors are problems (RFC 9457, `application/problem+json`); `type` is one of `Problem`, in every
implementation of the service.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter

from shop.inventory.deliveries import MOST_LINES, DeliveryNote, DeliveryReceipt
from shop.inventory.ledger import Holding, ProductStock
from shop.inventory.service import contract
from shop.inventory.service.contract import LONGEST_MARK, Reservation
from shop.orders.names import MAX_ORDER_ID

PROBLEM_JSON = "application/problem+json"
RESERVATION = TypeAdapter(Reservation)
STOCK = TypeAdapter(list[ProductStock])
HOLDINGS = TypeAdapter(list[Holding])
SHIPPED = TypeAdapter(dict[str, contract.Pieces])
RECEIPTS = TypeAdapter(list[DeliveryReceipt])


class Problem(StrEnum):
    """Types of problems."""

    OUT_OF_STOCK = "urn:inventory:out-of-stock"
    """409; `shortages` has every item that is short."""
    UNKNOWN_PRODUCT = "urn:inventory:unknown-product"
    """404; a service may answer this instead, with or without `shortages`. For a delivery: `shortages` has
    every product that is not known."""
    DELIVERY_CONFLICT = "urn:inventory:delivery-conflict"
    """409: a delivery's reference was received before with other goods."""
    LOST = "urn:inventory:reservation-lost"
    """409: nothing is held, or the order has ended."""
    NO_RESERVATION = "urn:inventory:no-reservation"
    """404: the order is unknown."""
    REFUSED = "urn:inventory:refused"
    """409: the request contradicts the stored state."""
    INVALID = "urn:inventory:invalid"
    """422."""
    UNAUTHORIZED = "urn:inventory:unauthorized"
    """401."""
    NOT_FOUND = "urn:inventory:no-such-path"
    """404, 405."""
    UNAVAILABLE = "urn:inventory:unavailable"
    """503, with `Retry-After`."""


def _text(value: str) -> str:
    """Validates that PostgreSQL can store the text."""
    if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError("must be text without NUL and half characters")
    return value


OrderId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_ORDER_ID + LONGEST_MARK,
        description="The order's id, with the shop's installation id and a slash before it",
        examples=["8c6f1f0e5b3d4a29/ORDER-1001"],
    ),
    AfterValidator(_text),
]
Installation = Annotated[str, Field(pattern="^[0-9a-f]{16}$", description="A shop's installation id")]
ProductId = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_text)]
Pieces = Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)]  # strict: `true` is not a number
Seconds = Annotated[float, Field(gt=0, le=90 * 24 * 3600)]


class AboutOrder(BaseModel, extra="forbid"):
    """A request about an order."""

    order_id: OrderId


class Keep(AboutOrder):
    """A request to extend a reservation to at least this many seconds from now."""

    seconds: Seconds


class Reserve(AboutOrder):
    """A request to reserve items for this many seconds."""

    items: dict[ProductId, Pieces] = Field(min_length=1, max_length=5_000, description="Pieces per product")
    seconds: Seconds


class Receive(BaseModel, extra="forbid"):
    """A request to record deliveries, all or none, and to add their pieces to the stock."""

    deliveries: list[DeliveryNote] = Field(min_length=1, max_length=MOST_LINES)
    started_by: str | None = Field(default=None, max_length=500)


class ShortItem(BaseModel):
    """An item that cannot be reserved."""

    product_id: str
    requested: contract.Pieces
    available: contract.Pieces


class ProblemDetails(BaseModel):
    """The body of an error answer (RFC 9457)."""

    type: str = "about:blank"
    title: str = ""
    status: int = 0
    detail: str = ""
    shortages: list[ShortItem] = []
    received: dict[str, dict[str, contract.Pieces]] = {}
    """Pieces per product that were received before, by reference of the delivery."""
