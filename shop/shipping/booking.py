"""A parcel at a carrier outside: what is done before the fulfilment's transaction, and what takes it back.

Intent, act, result, as with payments: the journal's `begun` is the intent, the quote's id and price are in its notes before a label is
bought for it, and the transaction that ships writes the result. An order that does not ship, for whatever reason, has its label voided:
that is due from the moment the step began.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from sqlalchemy import text

from saga.checkpoint import checkpoint
from saga.clock import database_time
from saga.database import transaction
from saga.errors import LeaseLost
from saga.execution import ExternalAction
from saga.failpoints import failpoint
from shop.orders.order import OrderInstance
from shop.settings import settings
from shop.shipping.carrier import AnothersParcel, Carrier, Quote, Rate, Shipment, Voided
from shop.shipping.carriers import EMBEDDED, STEP, carrier, carrier_of
from shop.shipping.errors import CarrierMismatch, CarrierRefused, CarrierUnavailable, VoidRefused

_UNDONE = text("SELECT EXISTS (SELECT 1 FROM order_step WHERE order_id = :id AND step = :step AND undo_status = 'done')")
_QUOTING, _BUYING, _VOIDING = (failpoint(what) for what in ("asking the carrier for a quote", "buying a label", "voiding a label"))
_RETRIES, _AWAY_SECONDS = 3, 15.0
"""After so many tries that failed, an order is put off for so long."""
_SETTLES_AFTER = 4
"""So many time limits after a label was asked for and not answered, it has been bought or never will be."""


def before_booking(orders: Sequence[OrderInstance]) -> ExternalAction | None:
    """Returns what books the parcel of each order before the transaction, if a carrier is external."""
    return book if _any_external(orders) else None


def before_voiding(orders: Sequence[OrderInstance]) -> ExternalAction | None:
    """Returns what voids the label of each order before the transaction, if a carrier is external."""
    return unbook if _any_external(orders) else None


def _any_external(orders: Sequence[OrderInstance]) -> bool:
    return any(carrier_of(order) != EMBEDDED for order in orders)


async def book(instance: OrderInstance) -> dict[str, Any]:
    """Has a label for the order: finds the one that was bought before, or buys one. Bought once, however often it is called.

    Raises what a `Carrier` raises. For the embedded carrier there is nothing to do before the transaction.
    """
    chosen = carrier_of(instance)
    if chosen == EMBEDDED:
        return {}
    try:
        parcel = await _parcel(instance, carrier(chosen))
    except CarrierUnavailable as away:
        await _wait_for(instance, away)
        raise
    try:
        await checkpoint(instance, STEP, parcel=parcel)
    except LeaseLost:
        await _void_if_undone(instance, carrier(chosen))
        raise
    return parcel


async def _void_if_undone(instance: OrderInstance, at: Carrier) -> None:
    """This process was paused right before it asked for the label, until another one had waited for it in vain and undone the order: then
    nobody will ever look for the label any more. If the order goes on, the other one finds it."""
    async with transaction() as tx:
        undone = (await tx.execute(_UNDONE, {"id": instance.id, "step": STEP})).scalar()
    if undone:
        with _VOIDING:
            await at.void(instance.payload, str(instance.journal[STEP].notes["quote_id"]))


async def _parcel(instance: OrderInstance, at: Carrier) -> dict[str, Any]:
    shipment = await _noted(instance, at)
    if shipment is not None and shipment.voided:  # by a person, in the carrier's own dashboard; else it is now
        with _VOIDING:
            await at.void(instance.payload, shipment.id)
    if shipment is None or shipment.voided:
        quote = await _quote(instance, at)
        shipment = await _create(instance, at, quote.id, quote.chosen)
    if shipment.voided:
        raise CarrierMismatch("label")
    return {**asdict(shipment), "amount": str(shipment.amount)}


async def _wait_for(instance: OrderInstance, away: CarrierUnavailable) -> None:
    """A carrier that is away is no reason to undo an order that is paid: it is put off, as long as stock is reserved for
    one. An answer that is wrong does not become right by waiting."""
    entry = instance.journal[STEP]
    if isinstance(away, CarrierMismatch) or entry.attempts <= _RETRIES or away.retry_after is not None:
        return
    now = (await database_time()).timestamp()
    since = float(entry.notes.get("away_since") or now)
    if since == now:
        await checkpoint(instance, STEP, away_since=now)
    if now - since < settings().inventory.reservation_minutes * 60:
        away.retry_after = _AWAY_SECONDS


async def _noted(instance: OrderInstance, at: Carrier) -> Shipment | None:
    """The label of the quote in the journal. None: there is none, so that no label can have been bought; a quote that a crash has lost
    costs nothing. An earlier version looked quotes up by the order's id, so what it noted may be another shop's."""
    notes = instance.journal[STEP].notes
    quote_id, quoted = notes.get("quote_id"), notes.get("quoted")
    rate = Rate(**{**quoted, "amount": Decimal(quoted["amount"])}) if isinstance(quoted, dict) else bool(quoted)
    try:
        return await _create(instance, at, str(quote_id), rate) if quote_id is not None else None
    except AnothersParcel:
        return None


async def _quote(instance: OrderInstance, at: Carrier) -> Quote:
    with _QUOTING:
        return await at.quote(instance.payload)


async def _create(instance: OrderInstance, at: Carrier, quote_id: str, quoted: Rate | bool) -> Shipment:
    """`quoted`: at which price the carrier has quoted it for this order, so that it is not another shop's. Earlier versions have noted that
    it was quoted without its price, or not even that."""
    # Written down before the label can be there: whoever undoes this finds it, and knows that it may still be on its way.
    await _note_that_it_is_asked_for(instance, at, quote_id, quoted)
    try:
        with _BUYING:
            return await at.create(instance.payload, quote_id, quoted if isinstance(quoted, Rate) else None)
    except CarrierRefused as refusal:
        if quoted and isinstance(refusal, AnothersParcel):
            raise CarrierMismatch("reference") from None
        await checkpoint(instance, STEP, asked_at=0)  # a clear answer: nothing is on its way
        raise


async def _note_that_it_is_asked_for(instance: OrderInstance, at: Carrier, quote_id: str, quoted: Rate | bool) -> None:
    """Again, if the database took so long that the label would be asked for much later than noted."""
    noted = {**asdict(quoted), "amount": str(quoted.amount)} if isinstance(quoted, Rate) else quoted
    late = True
    while late:
        began, asked_at = time.monotonic(), (await database_time()).timestamp()
        await checkpoint(instance, STEP, carrier=at.name, quote_id=quote_id, quoted=noted, asked_at=asked_at)
        late = time.monotonic() - began > settings().shipping.timeout_seconds


async def unbook(instance: OrderInstance) -> dict[str, Any]:
    """Voids the order's label, if there is one and the parcel is not handed over. Says what became of it, which is then also in the notes.

    Raises `VoidRefused`, and what else a `Carrier` raises.
    """
    chosen = carrier_of(instance)
    if chosen == EMBEDDED:
        return {}
    entry, at = instance.journal[STEP], carrier(chosen)
    quote_id, became = entry.notes.get("quote_id"), Voided.NOT_BOUGHT
    if quote_id is not None:
        with _VOIDING:
            became = await at.void(instance.payload, str(quote_id))
    if became is Voided.NOT_BOUGHT and (entry.notes.get("parcel") or {}).get("id") == quote_id is not None:
        raise VoidRefused("the carrier says that no label was bought, and had sold one")
    if became is Voided.HANDED_OVER and entry.status != "done":
        raise VoidRefused("the carrier says that the parcel is handed over, and it has not left here")
    if became is Voided.NOT_BOUGHT and (wait := await _may_come_yet(entry.notes)) > 0:
        raise CarrierUnavailable("a label was asked for and not answered: it may come yet", retry_after=wait)
    await checkpoint(instance, STEP, label=became)
    return {"label": became}


async def _may_come_yet(notes: dict[str, Any]) -> float:
    """Seconds until it is certain that a label, which was asked for, is not coming any more. Another machine may have asked for it."""
    if not (asked_at := float(notes.get("asked_at") or 0)):
        return 0
    limit = _SETTLES_AFTER * settings().shipping.timeout_seconds
    return min(limit, asked_at + limit - (await database_time()).timestamp())


def booked(instance: OrderInstance) -> Shipment | None:
    """The parcel that `book` has had made; None if it is the embedded carrier's to make one."""
    entry = instance.journal.get(STEP)
    parcel = entry.notes.get("parcel") if entry and carrier_of(instance) != EMBEDDED else None
    return Shipment(**{**parcel, "amount": Decimal(parcel["amount"])}) if parcel else None
