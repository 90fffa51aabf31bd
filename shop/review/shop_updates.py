"""Takes orders, and what happens to them later, from the shop system in which they were placed.

A shop repeats its messages, sends them in any sequence, and stops sending them if they fail too often. So
every message has a result; what cannot be applied to an order that is under way is recorded with it, for a
person to see, and never dropped.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from saga.cancelling import Asked
from saga.database import transaction
from shop.orders import intake
from shop.orders.comparison import Difference, Stored, differences, lock_stored
from shop.orders.errors import UnusableOrder
from shop.orders.formats.mapping import Mapped
from shop.orders.intake_content import Content
from shop.orders.outcomes import Outcome
from shop.review.cancel import ask_to_cancel
from shop.review.entries import add_entry, last_reason
from shop.review.errors import OrderUnknown

log = logging.getLogger(__name__)

ACTION = "shop_update"
"""The action under which the record of manual review has what could not be applied."""
_SHIPMENT = re.compile(r"fulfil|closed_at|canceled_at|(^|\.)status$|_quantity$")
"""Places that say that the other system has shipped the order."""
_MOST_CHARACTERS = 1_000


class Taken(BaseModel):
    """The result of one message."""

    model_config = ConfigDict(frozen=True)

    order_id: str | None = Field(default=None, description="the order's id here")
    status: Literal["accepted", "known", "waiting", "rejected", "cancelled", "changed", "ignored"] = Field(
        description="`accepted`: stored, and processed. `known`: nothing has changed. `waiting`: not paid "
        "yet, nothing is stored. `rejected`: stored, but not processed; see `reasons`. `cancelled`: it is "
        "being cancelled, or was before. `changed`: the change cannot be applied; see `differs`. `ignored`: "
        "of no interest here."
    )
    reasons: list[str] = Field(default_factory=list, description="why, one entry per problem")
    ignored: list[str] = Field(
        default_factory=list, description="fields with a value that have no place here"
    )
    differs: list[str] = Field(default_factory=list, description="what differs from the order that is known")
    outcome: Outcome | None = Field(default=None, description="of a known order that has ended")


async def take(mapped: Mapped, *, shop: str, message: str) -> Taken:
    """Takes one message about an order. `shop` says which shop, `message` which kind of message.

    A new order is stored, also a rejected one, if anything was paid. A known one is cancelled, or the change
    is recorded.
    """
    content = intake.read(mapped.to_store())
    if isinstance(content, UnusableOrder):
        return Taken(status="ignored", reasons=content.reasons())
    if mapped.cancelled is not None and (
        done := await cancel(mapped.order_id, mapped.cancelled, shop, message)
    ):
        return done
    async with transaction(intake.STORING) as tx:
        stored = await tx.run_sync(lock_stored, content.order_id)
        if stored is None:
            if mapped.waiting is not None:
                reasons = [mapped.waiting, *map(str, mapped.reasons)]
                status = "cancelled" if mapped.cancelled else "waiting"
                return Taken(order_id=content.order_id, status=status, reasons=reasons)
            receipt = await intake.store_one(tx, content)
            if receipt.status == "accepted":
                return _stored(mapped, content)
            # stored meanwhile by another message about it
            stored = await tx.run_sync(lock_stored, content.order_id)
        if stored is None:
            raise OrderUnknown(content.order_id)
        return await tx.run_sync(_compare, mapped, content, stored, (shop, message))


async def cancel(order_id: str, reason: str, shop: str, message: str) -> Taken | None:
    """Cancels a known order; None if it is not known."""
    try:
        asked = await ask_to_cancel(order_id, reason=reason, requested_by=shop, started_by=message)
    except OrderUnknown:
        return None
    if asked is Asked.ENDED:
        return Taken(
            order_id=order_id, status="known", reasons=["it has ended, and there is nothing to cancel"]
        )
    return Taken(order_id=order_id, status="cancelled", reasons=[reason])


def _stored(mapped: Mapped, content: Content) -> Taken:
    status: Literal["accepted", "rejected"] = "rejected" if mapped.reasons else "accepted"
    return Taken(
        order_id=content.order_id,
        status=status,
        reasons=[str(problem) for problem in mapped.reasons],
        ignored=list(mapped.ignored),
    )


def _compare(
    connection: Connection, mapped: Mapped, content: Content, stored: Stored, source: tuple[str, str]
) -> Taken:
    outcome = Outcome(stored.outcome) if stored.outcome else None
    known = Taken(
        order_id=content.order_id, status="known", outcome=outcome, reasons=list(stored.reasons or ())
    )
    if stored.is_erased or _is_older(content, stored):
        return known
    found = differences(stored.content, content)
    if mapped.waiting is not None:
        found = [Difference("payment", "accepted", mapped.waiting)]
    if mapped.shipped_there and stored.is_shipped:
        found = [each for each in found if not _SHIPMENT.search(each.place)]
    if not found:
        return known
    said = "; ".join(map(str, found))[:_MOST_CHARACTERS]
    places = ", ".join(each.place for each in found)[:200]
    if last_reason(connection, content.order_id, ACTION) != said:
        by, message = source
        add_entry(
            connection, content.order_id, ACTION, by=by, started_by=message, reason=said, reference=places
        )
        log.warning("order %s was changed in its shop, and differs here: %s", content.order_id, places)
    return known.model_copy(update={"status": "changed", "differs": [str(each) for each in found]})


def _is_older(content: Content, stored: Stored) -> bool:
    """Returns whether the message is older than the stored order: messages may overtake each other."""
    mine, theirs = _updated_at(stored.content), _updated_at(json.loads(content.text))
    return mine is not None and theirs is not None and theirs < mine


def _updated_at(content: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(content["metadata"]["updated_at"])
    except (KeyError, TypeError, ValueError):
        return None
