"""Takes orders, and what happens to them later, from the shop system in which they were placed.

A shop repeats its messages, sends them in any sequence, and stops sending them if they fail too often. So
every message has a result; what cannot be applied to an order that is under way is recorded with it, for a
person to see, and never dropped. The newest message about each order is remembered, also about one that is
not stored.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, Field
from sqlalchemy import Connection, text

from saga.cancelling import Asked
from saga.database import transaction
from shop.orders import intake
from shop.orders.comparison import Difference, Stored, differences, lock_stored, same_address
from shop.orders.errors import UnusableOrder
from shop.orders.formats.mapping import Mapped
from shop.orders.intake_content import Content
from shop.orders.outcomes import Outcome
from shop.orders.parts import ALREADY_PAID
from shop.payments.errors import NotReceivable
from shop.payments.recording import record_rest
from shop.review.actions import Entry, add_entry, read_entries
from shop.review.address import ACTION as CHANGE_ADDRESS
from shop.review.address import change_address
from shop.review.cancel import ask_in
from shop.review.errors import AddressInvalid, AddressSettled, OrderUnknown
from shop.text.card_numbers import cut

log = logging.getLogger(__name__)

_PAYMENT = "payment_info"
_OF_MONEY = frozenset({"currency", "total_amount", "part_payments", "prices_include_tax"})
"""Places whose differences say that another amount was paid than is due here."""
ADDRESS, BY_HAND = "shipping_info", "an address that was changed here"
MESSAGE = "webhook "
"""Begins what the record of decisions says about who started an entry that a shop's message caused."""
ACTION = "shop_update"
"""The action under which the record of manual review has what could not be applied."""
_SHIPMENT = re.compile(r"fulfil|closed_at|canceled_at|(^|\.)status$|_quantity$")
"""Places that say that the other system has shipped the order."""
_MOST_CHARACTERS = 1_000
_CANCEL = "cancel"
"""The action of entries about cancelling."""
_WAIT_SECONDS = 2.5
"""Limits the wait for a worker that has the order, in seconds: Shopify waits five for the answer."""
_DELETED, _RESTORED = "deleted in the shop", ".restored"
MAY_BE_REFUNDED = (
    "; the shop may have refunded the customer already: check there before giving money back by hand"
)
"""Ends the reason of a cancellation that came from the shop."""
_AS_OF = " (as of "
"""Begins the time of the message at the end of a recorded reason."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Which shop says something, with which kind of message, and when it was so there."""

    shop: str
    message: str
    at: datetime | None = None

    @property
    def as_of(self) -> str:
        return f"{_AS_OF}{self.at.isoformat()})" if self.at else ""


class _Outdated(Exception):
    """A newer message about the order was taken meanwhile."""


class Taken(BaseModel, frozen=True):
    """The result of one message."""

    order_id: str | None = Field(default=None, description="the order's id here")
    status: Literal[
        "accepted", "known", "waiting", "rejected", "cancelled", "updated", "changed", "ignored"
    ] = Field(
        description="`accepted`: stored, and processed. `known`: nothing has changed. `waiting`: not paid "
        "yet, nothing is stored. `updated`: it has the new address, or its money is recorded as received. "
        "`rejected`: stored, but not processed; see `reasons`. `cancelled`: it is being cancelled, or was "
        "before. `changed`: the change cannot be applied; see `differs`. `ignored`: of no interest here."
    )
    reasons: list[str] = Field(default_factory=list, description="why, one entry per problem")
    ignored: list[str] = Field(
        default_factory=list, description="fields with a value that have no place here"
    )
    differs: list[str] = Field(default_factory=list, description="what differs from the order that is known")
    outcome: Outcome | None = Field(default=None, description="of a known order that has ended")


async def take(mapped: Mapped, *, shop: str, message: str) -> Taken:
    """Takes one message about an order. `shop` says which shop, `message` which kind of message.

    A new order is stored, also a rejected one, if anything was paid. A known one is cancelled, gets its new
    address, or the change is recorded. Raises `OrderHeld`: a worker has the order just now, and its address
    can be changed later, or not any more.
    """
    content = intake.read(mapped.to_store())
    if isinstance(content, UnusableOrder):
        return Taken(status="ignored", reasons=content.reasons())
    at = _updated_at(json.loads(content.text))
    source = _Source(shop, message, at)
    async with transaction(intake.STORING) as tx:
        seen = await tx.run_sync(lock_seen, content.order_id)
        stored = await tx.run_sync(lock_stored, content.order_id)
        if stored is None:
            if seen.has_closed(at) and not message.endswith(_RESTORED):
                why = [seen.closed or "it was closed"]
                return Taken(order_id=content.order_id, status="cancelled", reasons=why)
            if mapped.waiting is not None:
                if mapped.cancelled is not None:
                    await tx.run_sync(close, content.order_id, at, mapped.cancelled)
                return _unpaid(mapped)
            receipt = await intake.store_one(tx, content)
            if receipt.status == "accepted":
                await tx.run_sync(remember, content.order_id, at)
                return _stored(mapped, content)
            # stored meanwhile by somebody else
            stored = await tx.run_sync(lock_stored, content.order_id)
        if stored is None:
            raise OrderUnknown(content.order_id)
        await tx.run_sync(remember, content.order_id, at)
        entries = await tx.run_sync(read_entries, content.order_id)
        is_older = seen.is_newer(at) or _is_older(at, stored, entries)
        if not is_older and (done := await tx.run_sync(_close, mapped, stored, source)):
            return done
        found = [] if is_older else _changes(mapped, content, stored, entries)
    outcome = Outcome(stored.outcome) if stored.outcome else None
    reasons = list(stored.reasons or ())
    known = Taken(order_id=content.order_id, status="known", outcome=outcome, reasons=reasons)
    if not found:
        return known
    left = await _with_payment(mapped, found, stored, shop)
    try:
        left = await _with_new_address(mapped, left, source)
        if not left:
            return known.model_copy(update={"status": "updated"})
        async with transaction() as tx:
            await tx.run_sync(lock_stored, content.order_id)
            await tx.run_sync(_check_newest, content.order_id, at)
            await tx.run_sync(_record, content.order_id, left, source)
    except _Outdated:  # the newer one says all of the order
        return known
    return known.model_copy(update={"status": "changed", "differs": [str(each) for each in left]})


async def delete(order_id: str, *, shop: str, message: str) -> Taken:
    """Takes the message that the shop has deleted an order. That tidies up, and is no return: an order that
    is shipped stays so. Of one that is not known yet, older messages are not taken any more."""
    source = _Source(shop, message)
    async with transaction(intake.STORING) as tx:
        await tx.run_sync(lock_seen, order_id)
        stored = await tx.run_sync(lock_stored, order_id)
        if stored is None:
            await tx.run_sync(close, order_id, None, _DELETED)
            return Taken(order_id=order_id, status="ignored", reasons=["it is not known here"])
        if not stored.is_shipped:
            return await tx.run_sync(_cancel, order_id, _DELETED, source)
        found = [Difference("order", "shipped", "deleted")]
        await tx.run_sync(_record, order_id, found, source)
    return Taken(order_id=order_id, status="changed", differs=[str(each) for each in found])


def _close(connection: Connection, mapped: Mapped, stored: Stored, source: _Source) -> Taken | None:
    """Cancels the order if the message asks for it; None: it does not, or what it says is to be recorded."""
    reason = mapped.not_to_ship or mapped.cancelled
    if reason is None or (mapped.not_to_ship is not None and stored.is_shipped):
        return None
    if mapped.cancelled is None and stored.outcome is not None:  # refunded: a person should know
        return None
    return _cancel(connection, mapped.order_id, reason, source)


def _cancel(connection: Connection, order_id: str, reason: str, source: _Source) -> Taken:
    reason = f"{cut(reason, 100)}{MAY_BE_REFUNDED}{source.as_of}"
    if ask_in(connection, order_id, reason, source.shop, source.message) is Asked.ENDED:
        return Taken(
            order_id=order_id, status="known", reasons=["it has ended, and there is nothing to cancel"]
        )
    return Taken(order_id=order_id, status="cancelled", reasons=[reason])


async def _with_new_address(mapped: Mapped, found: list[Difference], source: _Source) -> list[Difference]:
    """Changes the order's address if that differs and still can be changed. Returns the differences that are
    left. Raises `_Outdated`."""
    new = [each for each in found if each.place == ADDRESS and each.here != BY_HAND]
    if mapped.reasons or mapped.waiting or not new:
        return found
    try:
        await change_address(
            mapped.order_id,
            mapped.order.get(ADDRESS),
            changed_by=source.shop,
            reason=f"{ADDRESS}: changed in the shop{source.as_of}",
            started_by=source.message,
            wait_seconds=_WAIT_SECONDS,
            check=partial(_check_newest, order_id=mapped.order_id, at=source.at),
        )
    except (AddressSettled, AddressInvalid) as error:
        why = Difference(ADDRESS, "an address", f"another one: {error.reasons()[0]}")
        return [why if each.place == ADDRESS else each for each in found]
    return [each for each in found if each.place != ADDRESS]


async def _with_payment(
    mapped: Mapped, found: list[Difference], stored: Stored, shop: str
) -> list[Difference]:
    """Records the money of an order that was to be paid by transfer or on delivery, and that the shop says is
    paid now. Returns the differences that are left."""
    info = mapped.order.get(_PAYMENT) or {}
    places = {each.place for each in found}
    if f"{_PAYMENT}.method" not in places or info.get("method") != ALREADY_PAID or mapped.reasons:
        return found
    if places & _OF_MONEY:
        return found
    in_vain = stored.is_given_up or stored.outcome not in (None, Outcome.COMPLETED)
    try:
        recorded = await record_rest(mapped.order_id, shop)
    except NotReceivable:
        return found
    in_vain |= recorded is not None and recorded.came_in_vain
    if in_vain:  # a person has to give it back
        return found
    return [each for each in found if not each.place.startswith(f"{_PAYMENT}.")]


def _unpaid(mapped: Mapped) -> Taken:
    status: Literal["cancelled", "waiting"] = "cancelled" if mapped.cancelled else "waiting"
    reasons = [mapped.waiting or "", *map(str, mapped.reasons)]
    return Taken(order_id=mapped.order_id, status=status, reasons=reasons)


def _stored(mapped: Mapped, content: Content) -> Taken:
    return Taken(
        order_id=content.order_id,
        status="rejected" if mapped.reasons else "accepted",
        reasons=[str(problem) for problem in mapped.reasons],
        ignored=list(mapped.ignored),
    )


def _changes(mapped: Mapped, content: Content, stored: Stored, entries: list[Entry]) -> list[Difference]:
    """Returns what this message changes."""
    if stored.is_erased:
        return []
    if mapped.waiting is not None:
        return [Difference("payment", "accepted", mapped.waiting)]
    found = differences(stored.content, content)
    if any(_is_of_shop(entry) and entry.action == _CANCEL for entry in entries):
        if mapped.not_to_ship is not None and not stored.is_shipped:
            return []
        found = [Difference("order", "cancelled", "open again"), *found]
    if mapped.shipped_there and stored.is_shipped:
        found = [each for each in found if not _SHIPMENT.search(each.place)]
    return _without_decided_address(content, found, entries)


def _without_decided_address(
    content: Content, found: list[Difference], entries: list[Entry]
) -> list[Difference]:
    """Keeps an address that somebody has changed here, and of which the shop knows nothing."""
    changes = (each for each in entries if each.action == CHANGE_ADDRESS)
    since = [each.old_address for each in itertools.takewhile(lambda each: not _is_of_shop(each), changes)]
    if not since:
        return found
    if same_address(since[-1], json.loads(content.text).get(ADDRESS)):
        return [each for each in found if each.place != ADDRESS]
    return [Difference(ADDRESS, BY_HAND, "another one") if each.place == ADDRESS else each for each in found]


def _is_of_shop(entry: Entry) -> bool:
    return (entry.started_by or "").startswith(MESSAGE)


def _record(connection: Connection, order_id: str, found: list[Difference], source: _Source) -> None:
    """Records the differences with the order, once."""
    details = cut("; ".join(map(str, found)), _MOST_CHARACTERS)
    places = cut(", ".join(each.place for each in found), 200)
    before = [each.reason or "" for each in read_entries(connection, order_id) if each.action == ACTION]
    if not before or before[0].partition(_AS_OF)[0] != details:
        add_entry(
            connection,
            order_id,
            ACTION,
            by=source.shop,
            started_by=source.message,
            reason=details + source.as_of,
            reference=places,
        )
        log.warning("order %s was changed in its shop, and differs here: %s", order_id, places)


def _is_older(now: datetime | None, stored: Stored, entries: list[Entry]) -> bool:
    """Returns whether the order and its record show a newer message, also one of before the newest one was
    remembered."""
    reasons = [entry.reason or "" for entry in entries if _is_of_shop(entry)]
    known = [_time(reason.rpartition(_AS_OF)[2].rstrip(")")) for reason in reasons]
    known.append(_updated_at(stored.content))
    return now is not None and any(each is not None and now < each for each in known)


def _updated_at(content: Any) -> datetime | None:
    try:
        return _time(content["metadata"]["updated_at"])
    except (KeyError, TypeError):
        return None


def _time(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


_LOCK = text(
    "INSERT INTO shop_message (order_id) VALUES (:id) "
    "ON CONFLICT (order_id) DO UPDATE SET order_id = excluded.order_id RETURNING newest_at, closed"
)
_REMEMBER = text(
    "UPDATE shop_message SET newest_at = greatest(newest_at, :at), closed = :closed WHERE order_id = :id"
)
_NEWEST = text("SELECT newest_at FROM shop_message WHERE order_id = :id")
_CLOSE = text(
    "UPDATE shop_message SET newest_at = greatest(newest_at, coalesce(:at, now())), closed = :closed "
    "WHERE order_id = :id"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is remembered of the messages about an order."""

    newest_at: datetime | None
    closed: str | None
    """Why the order, which is not stored, is not taken from older messages."""

    def is_newer(self, at: datetime | None) -> bool:
        """Returns whether a newer message than one of this time was taken."""
        return self.newest_at is not None and at is not None and at < self.newest_at

    def has_closed(self, at: datetime | None) -> bool:
        """Returns whether an order that is not stored was cancelled or deleted after a message of this
        time."""
        if self.closed is None:
            return False
        return at is None or self.newest_at is None or at <= self.newest_at


def lock_seen(connection: Connection, order_id: str) -> Seen:
    """Returns what is remembered. Until the transaction ends, other messages about the order wait."""
    row = connection.execute(_LOCK, {"id": order_id}).one()
    return Seen(row.newest_at, row.closed)


def _check_newest(connection: Connection, order_id: str, at: datetime | None) -> None:
    """Raises `_Outdated` if a newer message than one of this time was taken. Needs the order's lock: whoever
    takes a message has it until the message is remembered."""
    newest_at = connection.execute(_NEWEST, {"id": order_id}).scalar()
    if Seen(newest_at, None).is_newer(at):
        raise _Outdated


def remember(connection: Connection, order_id: str, at: datetime | None) -> None:
    """Remembers a message about an order that is stored."""
    connection.execute(_REMEMBER, {"id": order_id, "at": at, "closed": None})


def close(connection: Connection, order_id: str, at: datetime | None, reason: str) -> None:
    """Remembers that an order which is not stored was cancelled or deleted: then (None: now)."""
    connection.execute(_CLOSE, {"id": order_id, "at": at, "closed": cut(reason, 200)})
