"""The port between the order saga and the stock, with the results of its steps.

It has two adapters, both modules: `shop.inventory.embedded` (our own tables, in the step's transaction) and
`shop.inventory.service.order_stock` (an inventory service over HTTP, before the transaction). The saga uses
neither directly: it calls `shop.inventory.stock`, which gives each adapter its part of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, Protocol

from pydantic import BaseModel

from saga import ExternalAction
from saga.database import Tx
from saga.errors import StepError
from shop.inventory.errors import ReservationLost
from shop.orders import amounts
from shop.orders.names import stem
from shop.orders.order import OrderInstance

STEP = "check_inventory"


class ReservedItem(BaseModel):
    """One product of a reservation."""

    product_id: str
    quantity: int
    reservation_id: str
    reserved_at: datetime


class ReservationResult(BaseModel):
    """The result of `check_inventory`."""

    inventory_status: Literal["reserved"] = "reserved"
    reservation_id: str
    reserved_items: list[ReservedItem]
    total_items_reserved: int
    """Pieces of all products."""
    total_reserved_value: Decimal
    reservation_timestamp: datetime


class ReleaseResult(BaseModel):
    """The result of `release_inventory`."""

    compensation_status: Literal["success", "no_reservation_to_release"]
    released_reservation_id: str | None = None
    released_items: dict[str, int] = {}
    release_timestamp: datetime | None = None


class OrderStock(Protocol):
    """The stock of orders that all use the same adapter; `shop.inventory.stock` says what each function does.

    Each operation has two parts: a `before_*` action, which runs for one order before the step's transaction
    (None: the adapter needs none), and a function for all orders in the transaction. Every part is
    idempotent.
    """

    @property
    def before_reserve(self) -> ExternalAction | None: ...
    @property
    def before_release(self) -> ExternalAction | None: ...
    @property
    def before_ship(self) -> ExternalAction | None: ...
    @property
    def before_put_back(self) -> ExternalAction | None: ...

    async def reserve(
        self, tx: Tx, orders: Sequence[OrderInstance], /
    ) -> Mapping[str, ReservationResult | StepError]: ...
    async def release(self, tx: Tx, orders: Sequence[OrderInstance], /) -> Mapping[str, ReleaseResult]: ...
    async def ship(
        self, tx: Tx, orders: Sequence[OrderInstance], /
    ) -> Mapping[str, Mapping[str, int] | ReservationLost]: ...
    async def put_back(
        self, tx: Tx, orders: Sequence[OrderInstance], returned: Mapping[str, Mapping[str, int]], /
    ) -> Mapping[str, Mapping[str, int]]:
        """Orders without any pieces may be omitted from the result."""

    async def before_extend(self, orders: Sequence[OrderInstance], seconds: float, /) -> None:
        """Raises no errors of the inventory: a reservation that is not extended expires, and its order
        reserves again later."""

    async def extend(self, tx: Tx, orders: Sequence[OrderInstance], seconds: float, /) -> None: ...


def reservation_id(order_id: str) -> str:
    """Returns the id of an order's reservation, which depends on the order's id only."""
    return f"RES-{stem(order_id)}"


def reservation_result(order: OrderInstance) -> ReservationResult:
    """Returns the result of reserving for an order that has all its items."""
    now, name = datetime.now(UTC), reservation_id(order.id)
    wanted = order.payload.wanted
    return ReservationResult.model_validate(
        {
            "reservation_id": name,
            "reserved_items": [
                {"product_id": p, "quantity": n, "reservation_id": name, "reserved_at": now}
                for p, n in wanted.items()
            ],
            "total_items_reserved": sum(wanted.values()),
            "total_reserved_value": amounts.lines_total(order.payload),
            "reservation_timestamp": now,
        }
    )


def release_result(order_id: str, items: Mapping[str, int]) -> ReleaseResult:
    """Returns the result of releasing these pieces per product; there may be none."""
    if not items:
        return ReleaseResult(compensation_status="no_reservation_to_release")
    return ReleaseResult(
        compensation_status="success",
        released_reservation_id=reservation_id(order_id),
        released_items=dict(items),
        release_timestamp=datetime.now(UTC),
    )
