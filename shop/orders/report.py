"""Reads what became of orders: `OrderOutcome`s, which flows return and Python callers get, and the
`OrderStatus` that the web API answers to the sender of an order, without customer data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from sqlalchemy import Connection, text

from saga.database import sync_engine, transaction
from saga.outcome import Compensation
from shop.orders.order import read_stored
from shop.orders.outcomes import OrderOutcome, Outcome, StepTiming
from shop.orders.tries import EARLIER_TRIES, IS_CANCELLED, TRY, EarlierTry, how_to_retry, read_tries
from shop.payments.charge import STEP as PAYMENT
from shop.settings import settings
from shop.values.money import currency_of, exact

_ORDERS = text(
    "SELECT id, outcome, failing_step, reasons, undone, currency, amount_charged, amount_refunded, "
    "amount_at_risk, amount_elsewhere, submitted_at, finished_at, "
    "extract(epoch FROM finished_at - submitted_at)::float AS seconds, takeovers, flow_run_id, "
    "coalesce(CAST(content -> :try ->> 'number' AS int), 1) AS try_number, "
    "CASE WHEN outcome IS NULL AND lease_id IS NULL AND not_before > now() THEN waits_for END AS waits_for "
    "FROM customer_order WHERE id = ANY(CAST(:ids AS text[]))"
).bindparams(**{"try": TRY})
_STEPS = text(
    "SELECT order_id, step, status, attempts, begun_at AS began_at, "
    "extract(epoch FROM ended_at - begun_at)::float AS seconds FROM order_step "
    "WHERE order_id = ANY(CAST(:ids AS text[])) ORDER BY number"
)
_AMOUNTS = ("amount_charged", "amount_refunded", "amount_at_risk", "amount_elsewhere")
_OUT_OF_STOCK = text(
    "SELECT count(*) FROM customer_order WHERE outcome = 'out_of_stock' AND erased_at IS NULL "
    "AND submitted_at > now() - interval '30 days' "
    "AND EXISTS (SELECT 1 FROM jsonb_array_elements(content -> 'items') i "
    "WHERE i ->> 'product_id' = ANY(CAST(:ids AS text[])))"
)
_ENDED = text(
    "SELECT count(*) FROM customer_order WHERE id = ANY(CAST(:ids AS text[])) AND outcome IS NOT NULL"
)

_WAITING = text(
    "SELECT count(*) FROM (SELECT 1 FROM customer_order WHERE outcome IS NULL AND lease_id IS NULL "
    "AND (not_before IS NULL OR not_before <= now()) LIMIT :most) waiting"
)


async def count_waiting(*, most: int) -> int:
    """Returns how many orders wait for a worker now, counted up to `most`."""
    async with transaction() as tx:
        return int((await tx.execute(_WAITING, {"most": most})).scalar_one())


async def count_out_of_stock(product_ids: Sequence[str]) -> int:
    """Returns how many orders of the last 30 days ended as out of stock and ask for one of these products."""
    async with transaction() as tx:
        return int((await tx.execute(_OUT_OF_STOCK, {"ids": list(product_ids)})).scalar_one())


def read(order_ids: Sequence[str]) -> dict[str, OrderOutcome]:
    """Returns the outcomes of these orders by id; unknown ids are missing."""
    with sync_engine(settings().database_url).connect() as connection:
        return _read(connection, order_ids)


def count_ended(order_ids: Sequence[str]) -> int:
    """Returns how many of these orders have an outcome."""
    with sync_engine(settings().database_url).connect() as connection:
        return int(connection.execute(_ENDED, {"ids": list(order_ids)}).scalar_one())


async def read_one(order_id: str) -> OrderOutcome | None:
    """Reads one order from an event loop."""
    async with transaction() as tx:
        return (await tx.run_sync(_read, [order_id])).get(order_id)


def _read(connection: Connection, order_ids: Sequence[str]) -> dict[str, OrderOutcome]:
    ids = {"ids": list(order_ids)}
    timings: dict[str, list[StepTiming]] = {}
    for row in connection.execute(_STEPS, ids):
        fields = dict(row._mapping)
        timings.setdefault(fields.pop("order_id"), []).append(StepTiming(**fields))
    return {
        row["id"]: _outcome(dict(row), timings.get(row["id"], []))
        for row in connection.execute(_ORDERS, ids).mappings()
    }


def _outcome(row: dict[str, Any], timings: list[StepTiming]) -> OrderOutcome:
    undone = [Compensation.model_validate(u) for u in row.pop("undone")]
    for name in _AMOUNTS:
        row[name] = exact(row[name], row["currency"])
    return OrderOutcome(order_id=row.pop("id"), undone=undone, timings=timings, **row)


# One statement, so one snapshot.
_ORDER = text(
    f"""
    SELECT o.id AS order_id, coalesce(CAST(o.content -> :try ->> 'number' AS int), 1) AS try_number,
        {EARLIER_TRIES} AS earlier_tries, {IS_CANCELLED} AS cancelled,
        CASE WHEN o.outcome IS NULL AND o.status = 'received' AND o.started_at IS NOT NULL THEN 'under_way'
            ELSE o.status END AS status,
        o.outcome, o.failing_step, o.reasons,
        o.currency, o.content, o.amount_charged, o.amount_refunded, o.amount_at_risk, o.amount_elsewhere,
        (SELECT coalesce(sum(r.amount), 0) FROM received_payment r
            WHERE r.order_id = o.id) AS amount_received,
        (SELECT s.tracking_number FROM shipment s WHERE s.order_id = o.id) AS tracking_number,
        (SELECT s.notes ->> 'payment_id' FROM order_step s
            WHERE s.order_id = o.id AND s.step = :payment) AS payment_id,
        (SELECT coalesce(jsonb_agg(jsonb_build_object(
                'step', s.step, 'status', s.status, 'attempts', s.attempts,
                'began_at', s.begun_at, 'ended_at', s.ended_at, 'undone', s.undo_status)
                ORDER BY s.number), '[]')
            FROM order_step s WHERE s.order_id = o.id) AS steps,
        o.submitted_at, o.finished_at
    FROM customer_order o WHERE o.id = :id
    """  # noqa: S608  (a constant)
)


class StepStatus(BaseModel, frozen=True):
    """One step that was begun for the order."""

    step: str
    status: str = Field(description="`begun`, `done` or `failed`")
    attempts: int
    began_at: datetime
    ended_at: datetime | None = None
    undone: str | None = Field(
        default=None, description="state of its compensation: `begun`, `done` or `failed`"
    )


class OrderStatus(BaseModel, frozen=True):
    """An order's status. Amounts are exact text in `currency`."""

    order_id: str
    order_number: str | None = Field(default=None, description="what the customer knows the order by")
    status: str = Field(description="`received`, `under_way`, `shipped`; once it has ended, the outcome")
    outcome: Outcome | None = Field(default=None, description="null while the order is in progress")
    failing_step: str | None = None
    reasons: list[str] = Field(
        default_factory=list, description="why it did not complete, one entry per problem"
    )
    currency: str
    amount_charged: Decimal = Field(description="by all tries; so is `amount_refunded`")
    amount_refunded: Decimal
    amount_at_risk: Decimal = Field(description="paid and due to be refunded, but not refunded yet")
    amount_elsewhere: Decimal = Field(
        description="what others have taken or will collect: paid already, by gift card, on delivery"
    )
    amount_due: Decimal | None = Field(
        default=None,
        description="the total less part payments, which the payment method pays; null if the order is not "
        "well-formed",
    )
    amount_received: Decimal = Field(
        default=Decimal(0), description="recorded as received by transfer or on delivery"
    )
    payment_id: str | None = Field(
        default=None, description="the gateway's payment id, for a page on which the customer authenticates"
    )
    tracking_number: str | None = None
    steps: list[StepStatus] = Field(default_factory=list)
    submitted_at: datetime = Field(description="when the current try was submitted, or asked for")
    finished_at: datetime | None = None
    try_number: int = Field(default=1, description="the number of the current try")
    earlier_tries: list[EarlierTry] = Field(default_factory=list)
    how_to_retry: str | None = Field(
        default=None, description="if it ended uncompleted and can be tried again: how"
    )


async def read_status(order_id: str) -> OrderStatus | None:
    """Returns the order's status with times in UTC; None if there is no such order."""
    async with transaction() as tx:
        found = await tx.execute(_ORDER, {"id": order_id, "payment": PAYMENT, "try": TRY})
        row = found.mappings().one_or_none()
    if row is None:
        return None
    fields = dict(row)
    content = fields.pop("content")
    if row["outcome"] is None:  # the column is written with the outcome
        fields["currency"] = currency_of(content)
    for name in (*_AMOUNTS, "amount_received"):
        fields[name] = exact(row[name], fields["currency"])
    fields |= _of_content(content)
    fields["earlier_tries"] = read_tries(row["earlier_tries"])
    how = how_to_retry(order_id, row["outcome"], cancelled=fields.pop("cancelled"))
    return OrderStatus(**fields, how_to_retry=how)


def _of_content(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the status has of the order itself: its number and what is due."""
    try:
        order = read_stored(content)
    except ValidationError:
        return {}
    return {"order_number": order.order_number, "amount_due": exact(order.amount_due, order.currency)}
