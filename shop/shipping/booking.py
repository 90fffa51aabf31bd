"""The external calls of shipping, before its transactions: the stock at an inventory service, and a label at
a carrier, which is bought before the fulfilment and voided by the compensation. The stock comes first:
putting it back costs nothing, and without it no label is needed.

Intent, act, result, as with payments: the journal's `begun` is the intent, the quote's id and price are in
its notes before a label is bought for it, and the transaction that ships writes the result. If an order does
not ship, for any reason, its label is voided: this compensation is due from the moment the step began.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from sqlalchemy import text

from saga import ExternalAction, checkpoint
from saga.clock import database_time
from saga.database import transaction
from saga.errors import LeaseLost
from saga.failpoints import failpoint
from shop.inventory import stock
from shop.orders.order import OrderInstance
from shop.settings import settings
from shop.shipping.carrier import Carrier, NotOurParcel, Rate, Shipment, Voided
from shop.shipping.carriers import EMBEDDED, STEP, carrier, carrier_of
from shop.shipping.embedded import EmbeddedCarrier
from shop.shipping.errors import CarrierMismatch, CarrierRefused, CarrierUnavailable, VoidRefused

_IS_COMPENSATED = text(
    "SELECT EXISTS (SELECT 1 FROM order_step WHERE order_id = :id AND step = :step AND undo_status = 'done')"
)
_QUOTING, _BUYING, _VOIDING = (
    failpoint(what) for what in ("asking the carrier for a quote", "buying a label", "voiding a label")
)
_RETRIES, _POSTPONE_SECONDS = 3, 15.0
"""After this many failed attempts, an order is postponed for this long (seconds)."""
_SETTLES_AFTER = 4
"""Multiple of the carrier's timeout after which an unanswered purchase of a label has either succeeded or
never will."""


def _any_external(orders: Sequence[OrderInstance]) -> bool:
    return any(carrier_of(order) != EMBEDDED for order in orders)


async def book(instance: OrderInstance) -> dict[str, Any]:
    """Finds the order's label, or buys one. Buys once, however often it is called.

    Raises what a `Carrier` raises. Does nothing for the embedded carrier, which needs nothing before the
    transaction.
    """
    chosen = carrier_of(instance)
    if chosen == EMBEDDED or not instance.payload.needs_shipment:
        return {}
    try:
        parcel = await _parcel(instance, carrier(chosen))
    except CarrierUnavailable as error:
        await _postpone_if_paid(instance, error)
        raise
    try:
        await checkpoint(instance, STEP, parcel=parcel)
    except LeaseLost:
        await _void_if_compensated(instance, carrier(chosen))
        raise
    return parcel


async def _void_if_compensated(instance: OrderInstance, at: Carrier) -> None:
    """Voids the label if another process has compensated the order. This process was then paused just before
    it bought the label, until the other one no longer waited for it: nothing else would find the label. If
    the order was not compensated, the other process finds it."""
    async with transaction() as tx:
        compensated = (await tx.execute(_IS_COMPENSATED, {"id": instance.id, "step": STEP})).scalar()
    if compensated:
        with _VOIDING:
            await at.void(instance.payload, str(instance.journal[STEP].notes["quote_id"]))


async def _parcel(instance: OrderInstance, at: Carrier) -> dict[str, Any]:
    shipment = await _journalled_shipment(instance, at)
    # Voided by a person in the carrier's dashboard: ensures that it is void.
    if shipment is not None and shipment.voided:
        with _VOIDING:
            await at.void(instance.payload, shipment.id)
    if shipment is None or shipment.voided:
        with _QUOTING:
            quote = await at.quote(instance.payload)
        shipment = await _create(instance, at, quote.id, quote.chosen)
    if shipment.voided:
        raise CarrierMismatch("label")
    return {**asdict(shipment), "amount": str(shipment.amount)}


async def _postpone_if_paid(instance: OrderInstance, error: CarrierUnavailable) -> None:
    """Sets `retry_after`, so that a paid order is postponed, not compensated, while the carrier is
    unavailable and its stock is reserved. Not for wrong answers, which do not improve over time."""
    entry = instance.journal[STEP]
    if isinstance(error, CarrierMismatch) or entry.attempts <= _RETRIES or error.retry_after is not None:
        return
    now = (await database_time()).timestamp()
    since = float(entry.notes.get("away_since") or now)
    if since == now:
        await checkpoint(instance, STEP, away_since=now)
    if now - since < settings().inventory.reservation_minutes * 60:
        error.retry_after = _POSTPONE_SECONDS


async def _journalled_shipment(instance: OrderInstance, at: Carrier) -> Shipment | None:
    """Returns the shipment of the quote in the journal, with its label. None if there is no quote, so that no
    label was bought; a quote that was lost in a crash costs nothing. An earlier version looked up quotes by
    the order's id, so its entry may be another shop's."""
    notes = instance.journal[STEP].notes
    quote_id, quoted = notes.get("quote_id"), notes.get("quoted")
    rate = (
        Rate(**{**quoted, "amount": Decimal(quoted["amount"])}) if isinstance(quoted, dict) else bool(quoted)
    )
    try:
        return await _create(instance, at, str(quote_id), rate) if quote_id is not None else None
    except NotOurParcel:
        return None


async def _create(instance: OrderInstance, at: Carrier, quote_id: str, quoted: Rate | bool) -> Shipment:
    """Buys the label of the quote, or finds the bought one. `quoted`: the rate that the carrier quoted for
    this order, which proves that the quote is not another shop's. Earlier versions journalled no rate, or
    nothing."""
    # Journalled before the label can exist, so that the compensation finds it, and knows that it may still
    # appear.
    await _journal_purchase_intent(instance, at, quote_id, quoted)
    try:
        with _BUYING:
            return await at.create(instance.payload, quote_id, quoted if isinstance(quoted, Rate) else None)
    except CarrierRefused as refusal:
        if quoted and isinstance(refusal, NotOurParcel):
            raise CarrierMismatch("reference") from None
        await checkpoint(instance, STEP, asked_at=0)  # a definite refusal: no label will appear
        raise


async def _journal_purchase_intent(
    instance: OrderInstance, at: Carrier, quote_id: str, quoted: Rate | bool
) -> None:
    """Journals that the label is about to be bought, and when. Repeats this if the database was so slow that
    the purchase would be much later than journalled."""
    journalled = {**asdict(quoted), "amount": str(quoted.amount)} if isinstance(quoted, Rate) else quoted
    late = True
    while late:
        began, asked_at = time.monotonic(), (await database_time()).timestamp()
        await checkpoint(
            instance, STEP, carrier=at.name, quote_id=quote_id, quoted=journalled, asked_at=asked_at
        )
        late = time.monotonic() - began > settings().shipping.timeout_seconds


async def unbook(instance: OrderInstance) -> dict[str, Any]:
    """Voids the order's label, if there is one and the parcel is not handed over. Returns the result and
    journals it.

    Raises what a `Carrier` raises, such as `VoidRefused`.
    """
    chosen = carrier_of(instance)
    if chosen == EMBEDDED:
        return {}
    entry, at = instance.journal[STEP], carrier(chosen)
    quote_id, outcome = entry.notes.get("quote_id"), Voided.NOT_BOUGHT
    if quote_id is not None:
        with _VOIDING:
            outcome = await at.void(instance.payload, str(quote_id))
    if outcome is Voided.NOT_BOUGHT and (entry.notes.get("parcel") or {}).get("id") == quote_id is not None:
        raise VoidRefused("the carrier reports that no label was bought, but it has sold one")
    if outcome is Voided.HANDED_OVER and entry.status != "done":
        raise VoidRefused("the carrier reports that the parcel was handed over, but it was not shipped")
    if outcome is Voided.NOT_BOUGHT and (wait := await _seconds_until_settled(entry.notes)) > 0:
        raise CarrierUnavailable(
            "the purchase of a label was not answered: it may still succeed", retry_after=wait
        )
    await checkpoint(instance, STEP, label=outcome)
    return {"label": outcome}


async def _seconds_until_settled(notes: dict[str, Any]) -> float:
    """Returns the seconds until an unanswered purchase,
    possibly of another machine, can no longer succeed."""
    if not (asked_at := float(notes.get("asked_at") or 0)):
        return 0
    limit = _SETTLES_AFTER * settings().shipping.timeout_seconds
    return min(limit, asked_at + limit - (await database_time()).timestamp())


def booked(instance: OrderInstance) -> Shipment | None:
    """Returns the parcel that `book` has bought; None for the embedded carrier."""
    entry = instance.journal.get(STEP)
    parcel = entry.notes.get("parcel") if entry and carrier_of(instance) != EMBEDDED else None
    return Shipment(**{**parcel, "amount": Decimal(parcel["amount"])}) if parcel else None


def before_fulfilment(orders: Sequence[OrderInstance]) -> ExternalAction | None:
    """Returns what ships the stock of each order and buys its label, if that is external for one of them.
    Raises what an `Inventory` and a `Carrier` raise."""
    steps = (stock.before_ship(orders), book if _any_external(orders) else None)
    actions = [action for action in steps if action is not None]
    if not actions:
        return None

    async def prepare(order: OrderInstance) -> dict[str, Any]:
        if carrier_of(order) == EMBEDDED and order.payload.needs_shipment:
            # An order that the carrier refuses needs no stock.
            EmbeddedCarrier(settings()).check(order.payload)
        return await _in_sequence(order, actions)

    return prepare


def before_return(orders: Sequence[OrderInstance]) -> ExternalAction | None:
    """Returns what puts the stock of each order back and voids its label,
    if that is external for one of them.

    A parcel that has left comes back only if its label can be voided or is used, so its stock waits for that.
    What never left does not depend on its label.
    """
    steps = (stock.before_put_back(orders), unbook if _any_external(orders) else None)
    actions = [action for action in steps if action is not None]
    if not actions:
        return None

    async def take_back(order: OrderInstance) -> dict[str, Any]:
        has_left = order.journal[STEP].status == "done"
        return await _in_sequence(order, actions[::-1] if has_left else actions)

    return take_back


async def _in_sequence(order: OrderInstance, actions: Sequence[ExternalAction]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for action in actions:
        result.update(dict(await action(order)))
    return result
