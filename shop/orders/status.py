"""Reads an `OrderStatus`: what the web API answers to the sender of an order. It has no customer data."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import text

from saga.database import transaction
from shop.orders.order import read_stored
from shop.orders.outcomes import Outcome
from shop.orders.tries import EARLIER_TRIES, IS_CANCELLED, TRY, EarlierTry, how_to_retry, read_tries
from shop.payments.charge import STEP as PAYMENT
from shop.values.money import currency_of, exact

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


class StepStatus(BaseModel):
    """One step that was begun for the order."""

    model_config = ConfigDict(frozen=True)

    step: str
    status: str = Field(description="`begun`, `done` or `failed`")
    attempts: int
    began_at: datetime
    ended_at: datetime | None = None
    undone: str | None = Field(
        default=None, description="state of its compensation: `begun`, `done` or `failed`"
    )


class OrderStatus(BaseModel):
    """An order's status. Amounts are exact text in `currency`."""

    model_config = ConfigDict(frozen=True)

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
        row = (
            (await tx.execute(_ORDER, {"id": order_id, "payment": PAYMENT, "try": TRY}))
            .mappings()
            .one_or_none()
        )
    if row is None:
        return None
    fields = dict(row)
    content = fields.pop("content")
    if row["outcome"] is None:  # the column is written with the outcome
        fields["currency"] = currency_of(content)
    money = {
        name: exact(row[name], fields["currency"])
        for name in (
            "amount_charged",
            "amount_refunded",
            "amount_at_risk",
            "amount_elsewhere",
            "amount_received",
        )
    }
    fields |= _of_content(content)
    fields = {**fields, **money, "earlier_tries": read_tries(row["earlier_tries"])}
    how = how_to_retry(order_id, row["outcome"], cancelled=fields.pop("cancelled"))
    return OrderStatus(**fields, how_to_retry=how)


def _of_content(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the status has of the order itself: its number and what is due."""
    try:
        order = read_stored(content)
    except ValidationError:
        return {}
    return {"order_number": order.order_number, "amount_due": exact(order.amount_due, order.currency)}
