"""What the saga does at an inventory service, before its own transactions; with the embedded stock there is nothing to do here.

Intent, act, result, as with payments and labels: the journal's `begun` is the intent, the service's address is noted before anything is
sent, and on a later attempt an open intent is looked up before anything is sent again. Undoing asks by order id, whatever our journal
knows, and ends the order there, so that what a dead worker sent and arrives late does nothing. An answer with other items than the order's,
or that contradicts what the service said before, is neither done nor refused: it is for a person, unless the next attempt makes it clear.

Shipping is committed at the service before our transaction writes the parcel. If that finds the order cancelled, or never comes, what was
committed is put back by `return_shipment`, which is due from the moment the step began.
"""

from __future__ import annotations

from typing import Any

from saga.checkpoint import checkpoint
from saga.clock import database_time
from saga.failpoints import failpoint
from shop.inventory import reservations
from shop.inventory.errors import InventoryMismatch, InventoryUnavailable, OutOfStock, ReservationLost
from shop.inventory.inventories import MARK, NOTE, inventory_at, is_marked, name_at_service, stock_of, to_ask
from shop.inventory.port import Inventory, Reservation, State
from shop.inventory.reservations import ReleaseResult
from shop.orders.order import OrderInstance
from shop.runtime.installation import installation_id
from shop.settings import settings
from shop.shipping.carriers import STEP as SHIPPING

_RESERVING, _RELEASING, _COMMITTING, _PUTTING_BACK = (
    failpoint(f"{what} at the inventory service") for what in ("reserving", "releasing", "committing", "putting back")
)
_RETRIES, _AWAY_SECONDS = 3, 15.0
"""After so many tries that failed, an order is put off for so long."""
_RELEASED, _TAKEN, _BACK = "released", "taken", "put_back"


async def reserve(instance: OrderInstance) -> dict[str, Any]:
    """Holds the order's items at the service that it belongs to. Raises what `Inventory.reserve` raises."""
    if (url := to_ask(instance)) is None:
        return {}
    at, entry = inventory_at(url), instance.journal[reservations.STEP]
    if entry.notes.get(NOTE) is None:
        # Whoever undoes this must know where to ask, and under which name.
        await checkpoint(instance, reservations.STEP, **{NOTE: url, MARK: await installation_id()})
    elif entry.attempts > 1 and (found := await at.get(name_at_service(instance))) is not None and _has_all(found, instance):
        return {}
    await _reserve(instance, at)
    return {}


async def release(instance: OrderInstance) -> dict[str, Any]:
    """The order is over at its service: what it held there is given back, which is then also in the notes."""
    if (url := stock_of(instance)) is None:
        return {}
    at, items = inventory_at(url), dict[str, int]()
    if await _is_ours(instance, at):
        with _RELEASING:
            ended = _checked(instance, await at.release(name_at_service(instance)))
        shipping = instance.journal.get(SHIPPING)
        if ended.state is State.SHIPPED and (shipping is None or not shipping.undo_due):
            raise InventoryMismatch("a reservation that is shipped, of an order that is not")
        items = ended.items if ended.state is State.RELEASED else {}
    await checkpoint(instance, reservations.STEP, **{_RELEASED: items})
    return {}


async def commit(instance: OrderInstance) -> dict[str, Any]:
    """The order's pieces leave the service's shelf. What ran out is reserved anew, if it is still there.

    Raises `ReservationLost`, and what else an `Inventory` raises.
    """
    if (url := stock_of(instance)) is None:
        return {}
    at, entry = inventory_at(url), instance.journal[SHIPPING]
    try:
        if not await _is_ours(instance, at):
            raise ReservationLost("another shop holds something at the inventory service under this order's id")
        if entry.attempts > 1 and (found := await at.get(name_at_service(instance))) is not None:
            _checked(instance, found)
        await _commit(instance, at)  # again, also if it seems done: it finds what the first one did
    except InventoryUnavailable as away:
        await _wait_for(instance, away)
        raise
    await checkpoint(instance, SHIPPING, **{_TAKEN: True})
    return {}


async def put_back(instance: OrderInstance) -> dict[str, Any]:
    """Takes back what was committed for the order, if anything was; from here on nothing can be."""
    if (url := stock_of(instance)) is None:
        return {}
    at, items = inventory_at(url), dict[str, int]()
    if await _is_ours(instance, at):
        with _PUTTING_BACK:
            ended = _checked(instance, await at.put_back(name_at_service(instance)))
        if ended.state is State.RETURNED and not ended.items:
            raise InventoryMismatch("that nothing came back to putting something back")
        if ended.state is not State.RETURNED and instance.journal[SHIPPING].notes.get(_TAKEN):
            raise InventoryMismatch(f"a reservation that is {ended.state}, and was shipped before")
        items = ended.items if ended.state is State.RETURNED else {}
    await checkpoint(instance, SHIPPING, **{_TAKEN: False, _BACK: items})
    return {}


async def keep(instance: OrderInstance, seconds: float) -> None:
    """What the order holds at its service does not run out for so long, and `RESERVATION_MINUTES` more. Raises as an `Inventory`."""
    if (url := stock_of(instance)) is not None:
        await inventory_at(url).keep(name_at_service(instance), seconds=seconds + _minutes())


def taken(instance: OrderInstance) -> dict[str, int]:
    """What `commit` had leave the service's shelf for the order. An order that should have been and was not must not ship."""
    entry = instance.journal.get(SHIPPING)
    if entry is None or not entry.notes.get(_TAKEN):
        raise RuntimeError("stock at an inventory service has to be committed there before its order is shipped")
    return instance.payload.wanted


def was_put_back(instance: OrderInstance) -> dict[str, int]:
    """What `put_back` had come back to the service's shelf."""
    entry = instance.journal.get(SHIPPING)
    return dict(entry.notes.get(_BACK) or {}) if entry else {}


def released(instance: OrderInstance) -> ReleaseResult:
    """What `release` has done, as the journal has it."""
    entry = instance.journal.get(reservations.STEP)
    return reservations.release_result(instance.id, dict(entry.notes.get(_RELEASED) or {}) if entry else {})


async def _is_ours(instance: OrderInstance, at: Inventory) -> bool:
    """An earlier version called orders by their own ids alone, as other shops at the same service may have done: what is there under such
    a name is ours only if its items are."""
    if is_marked(instance):
        return True
    found = await at.get(instance.id)
    return found is None or not found.items or found.items == instance.payload.wanted


async def _wait_for(instance: OrderInstance, away: InventoryUnavailable) -> None:
    """A service that fails is no reason to undo an order that is paid: it is put off, as long as stock is reserved for
    one. An answer that is wrong does not become right by waiting."""
    entry = instance.journal[SHIPPING]
    if isinstance(away, InventoryMismatch) or entry.attempts <= _RETRIES or away.retry_after is not None:
        return
    now = (await database_time()).timestamp()
    since = float(entry.notes.get("stock_away_since") or now)
    if since == now:
        await checkpoint(instance, SHIPPING, stock_away_since=now)
    if now - since < _minutes():
        away.retry_after = _AWAY_SECONDS


async def _commit(instance: OrderInstance, at: Inventory) -> None:
    try:
        await _commit_once(instance, at)
    except ReservationLost as lost:
        # Perhaps it only ran out, while the order was put off. One that is over is refused again.
        try:
            await _reserve(instance, at)
        except (OutOfStock, ReservationLost):
            raise lost from None
        await _commit_once(instance, at)


async def _commit_once(instance: OrderInstance, at: Inventory) -> None:
    with _COMMITTING:
        committed = await at.commit(name_at_service(instance))
    if committed.items != instance.payload.wanted:
        raise InventoryMismatch("other items than the order's to a commitment")


async def _reserve(instance: OrderInstance, at: Inventory) -> Reservation:
    with _RESERVING:
        return await at.reserve(name_at_service(instance), instance.payload.wanted, seconds=_minutes())


def _checked(instance: OrderInstance, found: Reservation) -> Reservation:
    """The reservation, if it has the order's items, or none; else raises `InventoryMismatch`."""
    if found.items and found.items != instance.payload.wanted:
        raise InventoryMismatch("a reservation of other items than the order's")
    return found


def _has_all(found: Reservation, instance: OrderInstance) -> bool:
    return found.state is State.HELD and found.items == instance.payload.wanted


def _minutes() -> float:
    return settings().inventory.reservation_minutes * 60
