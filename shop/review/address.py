"""Changes the address of an order that is not being shipped yet.

A label never has another address than the order. Therefore no worker may hold the order while its address is
changed: a worker reads the order when it claims it, and an external label is bought before the transaction
that ships. And the pivot must not have begun: from then on a label for the former address may exist.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field
from sqlalchemy import Connection, text

from saga import manual
from saga.database import transaction
from saga.failpoints import failpoint
from shop.orders.errors import OrderRejected, Problem, kind
from shop.orders.intake_content import take_in
from shop.orders.parts import ShippingInfo
from shop.orders.store import ORDERS
from shop.orders.tries import TRY
from shop.orders.validation import validate
from shop.review.actions import add_entry, lock_order, optional_texts, system_text
from shop.review.errors import AddressInvalid, AddressSettled, OrderHeld
from shop.settings import settings

ACTION = "change_address"
"""The action of entries of the record of decisions."""
CONFIRMATION_STEP, SHIPPING_STEP = "generate_confirmation", "fulfill_order"
_FIELD = "shipping_info"
_PAUSE_SECONDS = 0.2
_LOOK = text(
    """
    SELECT o.content, o.outcome, o.status, o.lease_id IS NOT NULL AS held,
        o.failure IS NOT NULL OR o.cancel_requested_at IS NOT NULL AS undone,
        EXISTS (SELECT 1 FROM order_step s WHERE s.order_id = o.id AND s.step = :shipping) AS shipping
    FROM customer_order o WHERE o.id = :id
    """
)
_CHANGING = failpoint("the commit of changing an address")


class AddressReceipt(BaseModel, frozen=True):
    """The result of a change."""

    order_id: str
    status: Literal["changed", "unchanged"] = Field(
        description="`unchanged`: the order had this address already"
    )


class _Everything:
    """A catalogue that has every product: only the address is judged here."""

    async def known(self, product_ids: set[str]) -> set[str]:
        return product_ids


async def change_address(
    order_id: str,
    given: object,
    *,
    changed_by: str | None,
    reason: str | None = None,
    started_by: str | None = None,
    partly: bool = False,
    wait_seconds: float = 0,
    check: Callable[[Connection], None] = lambda _: None,
) -> AddressReceipt:
    """Replaces the order's shipping address, and keeps the former one with who replaced it.

    `given` has the fields of `shipping_info`; `partly`: those that are left out stay. While a worker holds
    the order, waits up to `wait_seconds`. `check` is called once the order is locked, before anything is
    changed; what it raises is raised. Raises `OrderUnknown`; `AddressInvalid` with every problem;
    `AddressSettled`: it is being shipped or has ended; `OrderHeld` (retryable): a worker holds the order.
    """
    who, wrong = optional_texts(changed_by=changed_by, reason=reason)
    problems = [Problem(name, "text that cannot be stored", why) for name, why in wrong.items()]
    if not problems and who["changed_by"] is None:
        problems = [Problem("changed_by", "nothing", "who changes the address")]
    who["started_by"] = system_text(started_by)
    until = time.monotonic() + wait_seconds
    while True:
        try:
            return await _change(order_id.strip(), given, who, problems, partly=partly, check=check)
        except OrderHeld:
            if time.monotonic() + _PAUSE_SECONDS > until:
                raise
        await asyncio.sleep(_PAUSE_SECONDS)


async def _change(
    order_id: str,
    given: object,
    who: Mapping[str, str | None],
    problems: list[Problem],
    *,
    partly: bool,
    check: Callable[[Connection], None],
) -> AddressReceipt:
    async with transaction(_CHANGING) as tx:
        row = await tx.run_sync(lambda c: lock_order(c, order_id, _LOOK, shipping=SHIPPING_STEP))
        await tx.run_sync(check)
        former = dict(row["content"].get(_FIELD) or {})
        if partly and isinstance(given, Mapping):
            given = {**former, **given}
        address, wrong = await _read(row["content"], given)
        if problems or wrong:
            raise AddressInvalid([*problems, *wrong])
        _require_open(order_id, row)
        if address == former:
            return AddressReceipt(order_id=order_id, status="unchanged")
        await tx.run_sync(_store, order_id, address, former, who)
    return AddressReceipt(order_id=order_id, status="changed")


def _require_open(order_id: str, row: Any) -> None:
    if row["outcome"] is not None:
        raise AddressSettled(order_id, why=f"it has ended ({row['outcome']})")
    if row["undone"]:
        raise AddressSettled(order_id, why="it is being cancelled or compensated")
    if row["shipping"] or row["status"] != "received":
        raise AddressSettled(order_id, why="its shipping has begun: a label for its address may exist")
    if row["held"]:
        raise OrderHeld(order_id)


async def _read(content: Mapping[str, Any], given: object) -> tuple[dict[str, Any], list[Problem]]:
    """Returns the address as intake stores it, and its problems by the rules of orders."""
    if not isinstance(given, Mapping):
        return {}, [Problem(_FIELD, kind(given), "an object with an address")]
    raw = {name: value for name, value in content.items() if name != TRY}
    taken = json.loads(take_in({**raw, _FIELD: dict(given)}).text)
    (verdict,) = await validate([taken], _Everything(), settings())
    problems = []
    if isinstance(verdict, OrderRejected):
        problems = [each for each in verdict.problems if each.place.startswith(_FIELD)]
    named = {each.place for each in problems}
    problems += [
        Problem(f"{_FIELD}.{name}", "an unknown field", f"one of {', '.join(ShippingInfo.model_fields)}")
        for name in [str(name)[:60] for name in given if name not in ShippingInfo.model_fields][:20]
        if f"{_FIELD}.{name}" not in named
    ]
    return dict(taken.get(_FIELD) or {}), problems


def _store(
    connection: Connection,
    order_id: str,
    address: Mapping[str, Any],
    former: Mapping[str, Any],
    who: Mapping[str, str | None],
) -> None:
    # The confirmation names the address: it is written again.
    manual.replace_content(connection, ORDERS, order_id, {_FIELD: address}, again=[CONFIRMATION_STEP])
    add_entry(
        connection,
        order_id,
        ACTION,
        by=who["changed_by"] or "",
        started_by=who["started_by"],
        reason=who["reason"],
        old_address=former,
    )
