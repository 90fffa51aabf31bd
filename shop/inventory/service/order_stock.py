"""An inventory service as an `OrderStock`: all calls happen before the step's transaction.

Intent, act, result, as with payments and labels: the journal's `begun` is the intent, the service's address
is in the step's notes before anything is sent, and a later attempt looks up an open intent before it sends
anything again. A compensation asks by order id, whatever our journal has, and ends the order at the service,
so that a late request of a dead worker has no effect. An answer with other items than the order's, or that
contradicts what the service answered before, counts neither as done nor as refused: the order goes to manual
review, unless the next attempt clarifies it.

Shipping is committed at the service before our transaction writes the parcel. If that transaction finds the
order cancelled, or never runs, `return_shipment` puts the pieces back: it is due from the moment the step
began.

The functions with a transaction only return what the journal has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from saga import checkpoint
from saga.clock import database_time
from saga.database import Tx
from saga.errors import StepError
from saga.failpoints import failpoint
from shop.inventory.errors import InventoryMismatch, InventoryUnavailable, OutOfStock, ReservationLost
from shop.inventory.port import STEP, ReleaseResult, ReservationResult, release_result, reservation_result
from shop.inventory.service.connections import inventory_at
from shop.inventory.service.contract import Inventory, Reservation, State, own_order_id
from shop.orders.order import OrderInstance
from shop.orders.tries import try_number
from shop.runtime.installation import installation_id
from shop.settings import settings
from shop.shipping.carriers import STEP as SHIPPING

log = logging.getLogger(__name__)

_RESERVING, _RELEASING, _COMMITTING, _PUTTING_BACK = (
    failpoint(f"{what} at the inventory service")
    for what in ("reserving", "releasing", "committing", "putting back")
)
_RETRIES, _POSTPONE_SECONDS = 3, 15.0
"""After this many failed attempts to ship, an order is postponed for this long."""
_ADDRESS, _INSTALLATION = "inventory", "installation_id"
"""Notes of `check_inventory`: the service's address, and the installation id in the order's name there. An
order without the second was begun by an earlier version."""
_RELEASED = "released"
"""Note of `check_inventory`: the pieces that the service released."""
_TAKEN, _BACK = "taken", "put_back"
"""Notes of `fulfill_order`: whether the service shipped the pieces, and those that it put back."""


def address_of(order: OrderInstance) -> str | None:
    """Returns the address of the service with which the order reserved, whatever the settings are now; None
    if it reserved with none."""
    entry = order.journal.get(STEP)
    return entry.notes.get(_ADDRESS) if entry else None


def address_to_reserve_at(order: OrderInstance) -> str | None:
    """Returns the address at which the order has to reserve: where it began to reserve, else the one of the
    settings; None: the embedded stock."""
    return address_of(order) or settings().inventory.service_url


def reserved_pieces(result: Mapping[str, Any]) -> dict[str, int]:
    """Returns the pieces per product in a journalled result of `check_inventory`."""
    return {item["product_id"]: item["quantity"] for item in result.get("reserved_items", ())}


# -- reserving --


async def before_reserve(order: OrderInstance) -> dict[str, Any]:
    """Reserves the order's items. Raises what `Inventory.reserve` raises."""
    url = _required(address_to_reserve_at(order))
    at, entry = inventory_at(url), order.journal[STEP]
    if entry.notes.get(_ADDRESS) is None:
        # The compensation needs the address, and the order's name there.
        await checkpoint(order, STEP, **{_ADDRESS: url, _INSTALLATION: await installation_id()})
    elif entry.attempts > 1 and (found := await at.get(_name(order))) is not None and _has_all(found, order):
        return {}
    await _reserve(order, at)
    return {}


async def reserve(_tx: Tx, orders: Sequence[OrderInstance]) -> dict[str, ReservationResult | StepError]:
    """Returns what `before_reserve` did."""
    return {order.id: reservation_result(order) for order in orders}


# -- releasing --


async def before_release(order: OrderInstance) -> dict[str, Any]:
    """Ends the order at its service, which releases what the order held."""
    at, items = _inventory_of(order), dict[str, int]()
    if await _is_ours(order, at):
        with _RELEASING:
            ended = _checked(order, await at.release(_name(order)))
        shipping = order.journal.get(SHIPPING)
        if ended.state is State.SHIPPED and (shipping is None or not shipping.undo_due):
            raise InventoryMismatch("a reservation that is shipped, of an order that is not")
        items = ended.items if ended.state is State.RELEASED else {}
    await checkpoint(order, STEP, **{_RELEASED: items})
    return {}


async def release(_tx: Tx, orders: Sequence[OrderInstance]) -> dict[str, ReleaseResult]:
    """Returns what `before_release` did."""
    return {order.id: release_result(order.id, _noted_pieces(order, STEP, _RELEASED)) for order in orders}


# -- shipping --


async def before_ship(order: OrderInstance) -> dict[str, Any]:
    """Ships the order's pieces at the service. Reserves again if the reservation has expired and the items
    are still in stock.

    Raises `ReservationLost`, and the other errors of an `Inventory`.
    """
    at, entry = _inventory_of(order), order.journal[SHIPPING]
    try:
        if not await _is_ours(order, at):
            raise ReservationLost(
                "the inventory service has another shop's reservation under this order's id"
            )
        if entry.attempts > 1 and (found := await at.get(_name(order))) is not None:
            _checked(order, found)
        await _commit(order, at)  # also if it seems done: the call is idempotent
    except InventoryUnavailable as unavailable:
        await _postpone_if_repeated(order, unavailable)
        raise
    await checkpoint(order, SHIPPING, **{_TAKEN: True})
    return {}


async def ship(_tx: Tx, orders: Sequence[OrderInstance]) -> dict[str, dict[str, int] | ReservationLost]:
    """Returns what `before_ship` did. Raises `RuntimeError` for an order that it did not ship."""
    for order in orders:
        entry = order.journal.get(SHIPPING)
        if entry is None or not entry.notes.get(_TAKEN):
            raise RuntimeError("the inventory service must commit the stock before the order is shipped")
    return {order.id: order.payload.wanted for order in orders}


# -- putting back --


async def before_put_back(order: OrderInstance) -> dict[str, Any]:
    """Ends the order at its service, which puts shipped pieces back into stock."""
    at, items = _inventory_of(order), dict[str, int]()
    if await _is_ours(order, at):
        with _PUTTING_BACK:
            ended = _checked(order, await at.put_back(_name(order)))
        if ended.state is State.RETURNED and not ended.items:
            raise InventoryMismatch("that it put nothing back")
        if ended.state is not State.RETURNED and order.journal[SHIPPING].notes.get(_TAKEN):
            raise InventoryMismatch(f"a reservation that is {ended.state}, although it was shipped before")
        items = ended.items if ended.state is State.RETURNED else {}
    await checkpoint(order, SHIPPING, **{_TAKEN: False, _BACK: items})
    return {}


async def put_back(
    _tx: Tx, orders: Sequence[OrderInstance], returned: Mapping[str, Mapping[str, int]]
) -> dict[str, Mapping[str, int]]:
    """Returns the pieces of the returned parcels, else what `before_put_back` put back."""
    return {order.id: returned.get(order.id) or _noted_pieces(order, SHIPPING, _BACK) for order in orders}


# -- extending --


async def before_extend(orders: Sequence[OrderInstance], seconds: float) -> None:
    """Extends the reservations at their services. Logs failures: such a reservation may expire, and its order
    reserves again later."""
    await asyncio.gather(*(_extend(order, seconds) for order in orders))


async def extend(_tx: Tx, orders: Sequence[OrderInstance], seconds: float) -> None:
    """Does nothing: `before_extend` did it."""


async def _extend(order: OrderInstance, seconds: float) -> None:
    try:
        await _inventory_of(order).keep(_name(order), seconds=seconds + _expiry_seconds())
    except StepError as error:
        log.warning(
            "the reservation of order %s may expire at the inventory service (%s)", order.id, error.code
        )


def _required(address: str | None) -> str:
    if address is None:
        raise RuntimeError("the order has no stock at an inventory service")
    return address


def _inventory_of(order: OrderInstance) -> Inventory:
    return inventory_at(_required(address_of(order)))


def _name(order: OrderInstance) -> str:
    """Returns the order's name at its service."""
    entry = order.journal.get(STEP)
    installation = entry.notes.get(_INSTALLATION) if entry else None
    return own_order_id(installation, order.id, try_number(order)) if installation else order.id


def _noted_pieces(order: OrderInstance, step: str, note: str) -> dict[str, int]:
    entry = order.journal.get(step)
    return dict(entry.notes.get(note) or {}) if entry else {}


async def _is_ours(order: OrderInstance, at: Inventory) -> bool:
    """Returns whether the reservation under the order's name at the service is ours. An earlier version used
    the order's id alone as its name, as other shops at the same service may do: such a reservation is ours
    only if its items are."""
    if _name(order) != order.id:
        return True
    found = await at.get(order.id)
    return found is None or not found.items or found.items == order.payload.wanted


async def _postpone_if_repeated(order: OrderInstance, unavailable: InventoryUnavailable) -> None:
    """Makes the error postpone the order after `_RETRIES` attempts, for as long as its stock is reserved: a
    failing service is no reason to compensate a paid order. Not for wrong answers, which waiting does not
    correct."""
    entry = order.journal[SHIPPING]
    if (
        isinstance(unavailable, InventoryMismatch)
        or entry.attempts <= _RETRIES
        or unavailable.retry_after is not None
    ):
        return
    now = (await database_time()).timestamp()
    since = float(entry.notes.get("stock_away_since") or now)
    if since == now:
        await checkpoint(order, SHIPPING, stock_away_since=now)
    if now - since < _expiry_seconds():
        unavailable.retry_after = _POSTPONE_SECONDS


async def _commit(order: OrderInstance, at: Inventory) -> None:
    try:
        await _commit_once(order, at)
    except ReservationLost as lost:
        # The reservation may have expired while the order was postponed. If the order has ended there, the
        # service refuses this too.
        try:
            await _reserve(order, at)
        except (OutOfStock, ReservationLost):
            raise lost from None
        await _commit_once(order, at)


async def _commit_once(order: OrderInstance, at: Inventory) -> None:
    with _COMMITTING:
        committed = await at.commit(_name(order))
    if committed.items != order.payload.wanted:
        raise InventoryMismatch("a commit with other items than the order's")


async def _reserve(order: OrderInstance, at: Inventory) -> Reservation:
    with _RESERVING:
        return await at.reserve(_name(order), order.payload.wanted, seconds=_expiry_seconds())


def _checked(order: OrderInstance, found: Reservation) -> Reservation:
    """Returns the reservation if it has the order's items, or none; else raises `InventoryMismatch`."""
    if found.items and found.items != order.payload.wanted:
        raise InventoryMismatch("a reservation of other items than the order's")
    return found


def _has_all(found: Reservation, order: OrderInstance) -> bool:
    return found.state is State.HELD and found.items == order.payload.wanted


def _expiry_seconds() -> float:
    return settings().inventory.reservation_minutes * 60
