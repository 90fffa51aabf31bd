"""Lists and searches orders, the newest first, page by page. Its results have no customer data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import text

from saga.database import transaction
from shop.orders.outcomes import Outcome
from shop.values.money import exact

CURSOR = "^[0-9]{1,16}-[0-9]{1,18}$"
"""Pattern of cursors: when the last order of a page was submitted, in microseconds, and its number."""
MOST = 500
"""Limits the orders of a page."""
# An index has the hash of the text, which bounds an entry's size, whatever was ordered.
CUSTOMER_KEY = "hashtextextended(content ->> 'customer_id'::text, 0::bigint)"
EMAIL_KEY = "hashtextextended(lower(content ->> 'customer_email'::text), 0::bigint)"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS = 20
"""Limits a query, in seconds."""
_OPEN = "outcome IS NULL"
_CONDITIONS = {
    "outcome": "outcome = :outcome",
    "customer": f"{CUSTOMER_KEY} = hashtextextended(CAST(:customer AS text), 0) "
    "AND content ->> 'customer_id' = :customer "
    "AND erased_at IS NULL",
    "email": f"{EMAIL_KEY} = hashtextextended(lower(CAST(:email AS text)), 0) "
    "AND lower(content ->> 'customer_email') = lower(CAST(:email AS text)) AND erased_at IS NULL",
    "since": "submitted_at >= :since",
    "until": "submitted_at < :until",
    "after": "(submitted_at, number) < (:after_at, :after_number)",
}


class Status(StrEnum):
    """Where an order stands."""

    OPEN = "open"
    """Any order without an outcome: received, under way or shipped."""
    RECEIVED = "received"
    UNDER_WAY = "under_way"
    SHIPPED = "shipped"
    """Shipped, and without an outcome yet."""
    COMPLETED = "completed"
    REJECTED = "rejected"
    OUT_OF_STOCK = "out_of_stock"
    COMPENSATED = "compensated"
    NEEDS_ATTENTION = "needs_attention"

    @property
    def condition(self) -> str:
        match self:
            case Status.OPEN:
                return _OPEN
            case Status.RECEIVED:
                return f"{_OPEN} AND status = 'received' AND started_at IS NULL"
            case Status.UNDER_WAY:
                return f"{_OPEN} AND status = 'received' AND started_at IS NOT NULL"
            case Status.SHIPPED:
                return f"{_OPEN} AND status = 'shipped'"
        return f"outcome = '{self.value}'"


class BadCursor(ValueError):
    """The cursor is not one that a page has returned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which orders are wanted; all of the conditions hold."""

    status: Status | None = None
    outcome: Outcome | None = None
    customer: str | None = None
    """The customer's id, exactly."""
    email: str | None = None
    """The customer's e-mail address, in any case."""
    since: datetime | None = None
    """Submitted at this time or later."""
    until: datetime | None = None
    """Submitted before this time."""


class ListedOrder(BaseModel, frozen=True):
    """An order in a list. Amounts are exact text in `currency`."""

    order_id: str
    status: str = Field(description="`received`, `under_way`, `shipped`; once it has ended, the outcome")
    outcome: Outcome | None = Field(default=None, description="null while the order is in progress")
    failing_step: str | None = None
    currency: str
    total_amount: Decimal | None = Field(default=None, description="null if it was not a usable amount")
    amount_charged: Decimal
    amount_refunded: Decimal
    amount_at_risk: Decimal
    tracking_number: str | None = None
    submitted_at: datetime
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    orders: list[ListedOrder]
    cursor: str | None
    """Continues after this page; None: it is the last one."""


async def find_orders(wanted: Wanted, *, limit: int, cursor: str | None = None) -> Page:
    """Returns up to `limit` orders, the newest first. Raises `BadCursor`."""
    values: dict[str, Any] = {"limit": limit + 1}
    conditions = []
    if wanted.status is not None:
        conditions.append(wanted.status.condition)
    for name in ("outcome", "customer", "email", "since", "until"):
        if (value := getattr(wanted, name)) is not None:
            conditions.append(_CONDITIONS[name])
            values[name] = value
    if cursor is not None:
        values["after_at"], values["after_number"] = _read_cursor(cursor)
        conditions.append(_CONDITIONS["after"])
    if any("\x00" in each for each in (wanted.customer, wanted.email) if each):  # no order can have it
        return Page([], None)
    async with transaction(seconds=_SECONDS) as tx:
        rows = (await tx.execute(text(_query(conditions)), values)).mappings().all()
    more = len(rows) > limit
    rows = rows[:limit]
    return Page(list(map(_listed, rows)), _cursor(rows[-1]) if more else None)


async def find_all(wanted: Wanted, *, most: int) -> tuple[list[ListedOrder], bool]:
    """Returns up to `most` orders, the newest first, and whether there are more."""
    found: list[ListedOrder] = []
    cursor: str | None = None
    while len(found) < most:
        page = await find_orders(wanted, limit=min(MOST, most - len(found)), cursor=cursor)
        found += page.orders
        if (cursor := page.cursor) is None:
            return found, False
    return found, True


def _query(conditions: list[str]) -> str:
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"""
        SELECT o.id AS order_id, o.number, o.outcome, o.failing_step, o.currency,
            CASE WHEN o.outcome IS NULL AND o.status = 'received' AND o.started_at IS NOT NULL
                THEN 'under_way' ELSE o.status END AS status,
            o.content ->> 'total_amount' AS total_amount,
            o.amount_charged, o.amount_refunded, o.amount_at_risk,
            (SELECT s.tracking_number FROM shipment s WHERE s.order_id = o.id) AS tracking_number,
            o.submitted_at, o.finished_at
        FROM (SELECT * FROM customer_order {where} ORDER BY submitted_at DESC, number DESC LIMIT :limit) o
        ORDER BY o.submitted_at DESC, o.number DESC
    """  # noqa: S608  (constants)


def _listed(row: Any) -> ListedOrder:
    fields = {name: row[name] for name in ListedOrder.model_fields}
    for name in ("amount_charged", "amount_refunded", "amount_at_risk"):
        fields[name] = exact(row[name], row["currency"])
    fields["total_amount"] = _amount(row["total_amount"])
    return ListedOrder(**fields)


def _amount(given: str | None) -> Decimal | None:
    """Reads an ordered total, which may be any text."""
    try:
        amount = Decimal((given or "")[:40])
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and abs(amount.adjusted()) < 20 else None


def _cursor(row: Any) -> str:
    return f"{(row['submitted_at'] - _EPOCH) // timedelta(microseconds=1)}-{row['number']}"


def _read_cursor(cursor: str) -> tuple[datetime, int]:
    if not re.fullmatch(CURSOR, cursor):
        raise BadCursor("the cursor is not one that a page has returned")
    microseconds, _, number = cursor.partition("-")
    return _EPOCH + timedelta(microseconds=int(microseconds)), int(number)


def words_of(wanted: Wanted) -> Iterator[tuple[str, str]]:
    """Yields the conditions as name and text, for links."""
    for name in Wanted.__dataclass_fields__:
        value = getattr(wanted, name)
        if value is not None:
            yield name, value.isoformat() if isinstance(value, datetime) else str(value)
