"""Orders under manual review: a compensation failed. It is retried with growing pauses, and a person
sees what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field
from sqlalchemy import Connection, RowMapping, text

from saga.database import Tx, as_json, sync_engine, transaction
from saga.errors import StepTimeout
from shop.inventory.errors import InventoryMismatch
from shop.monitoring.window import parse
from shop.orders.order import OrderInstance
from shop.payments.disputes import OpenDispute, read_open
from shop.payments.errors import (
    PAID_AND_REJECTED,
    PAID_ELSEWHERE,
    PaidAndRejected,
    PaidElsewhere,
    PaymentGatewayError,
    PaymentGatewayTimeout,
    RefundRefused,
)
from shop.settings import settings
from shop.shipping.errors import CarrierMismatch, CarrierTimeout, CarrierUnavailable, VoidRefused
from shop.values.money import exact, show

_PUT = text(
    """
    INSERT INTO attention AS a (
        order_id, step, currency, amount_at_risk, last_error, error_code, next_retry_at)
    SELECT r.order_id, r.step, r.currency, r.amount_at_risk, r.error, r.code,
        CASE WHEN NOT (:hold OR r.hold) THEN now() + make_interval(secs => :first) END
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS r(order_id text, step text, currency text, amount_at_risk numeric, error text, code text,
            hold boolean)
    ON CONFLICT (order_id) DO UPDATE
    SET step = excluded.step, amount_at_risk = excluded.amount_at_risk,
        last_error = excluded.last_error, error_code = excluded.error_code,
        retries = a.retries + 1, resolved_at = NULL, resolution = NULL,
        next_retry_at = CASE WHEN excluded.next_retry_at IS NOT NULL THEN
            now() + make_interval(secs => least(:longest, :first * power(2, least(a.retries + 1, 30)))) END
    """
)
_CLEAR = text(
    "UPDATE attention SET resolved_at = now(), resolution = 'undone' "
    "WHERE order_id = ANY(CAST(:ids AS text[])) AND resolved_at IS NULL"
)
_CASES = """
    SELECT a.order_id, a.since, a.step, a.currency, o.amount_at_risk,
        a.last_error, a.error_code, a.retries, a.next_retry_at, o.outcome IS NULL AS being_retried
    FROM attention a JOIN customer_order o ON o.id = a.order_id
"""
_OPEN = text(f"{_CASES} WHERE a.resolved_at IS NULL ORDER BY a.since, a.order_id LIMIT :most")
_SELECT = text(
    f"""
    {_CASES}
    WHERE (CAST(:ids AS text[]) IS NULL AND a.resolved_at IS NULL OR a.order_id = ANY(CAST(:ids AS text[])))
      AND (CAST(:step AS text) IS NULL OR a.step = :step)
      AND (CAST(:code AS text) IS NULL OR a.error_code = :code)
      AND (CAST(:currency AS text) IS NULL OR a.currency = :currency)
      AND (CAST(:held AS boolean) IS NULL OR (a.next_retry_at IS NULL) = :held)
      AND (CAST(:older_than AS interval) IS NULL OR a.since < now() - CAST(:older_than AS interval))
      AND (CAST(:at_least AS numeric) IS NULL OR o.amount_at_risk >= :at_least)
      AND (CAST(:at_most AS numeric) IS NULL OR o.amount_at_risk <= :at_most)
    ORDER BY a.since, a.order_id
    """
)
_TOTALS = text(
    "SELECT a.currency, count(*) AS orders, sum(o.amount_at_risk) AS at_risk "
    "FROM attention a JOIN customer_order o ON o.id = a.order_id "
    "WHERE a.resolved_at IS NULL GROUP BY a.currency ORDER BY a.currency"
)


@dataclass(frozen=True, slots=True)
class NewCase:
    """What puts an order under manual review."""

    order_id: str
    step: str
    currency: str
    amount_at_risk: Decimal
    error: str
    code: str
    hold: bool = False
    """Whether trying again cannot help: only a person can."""


class ReviewCase(BaseModel, frozen=True):
    """An order under manual review."""

    order_id: str
    since: datetime
    step: str
    """The step whose compensation failed."""
    currency: str
    amount_at_risk: Decimal
    """The amount at risk now, which a decision settles."""
    last_error: str
    error_code: str
    retries: int
    next_retry_at: datetime | None
    """None: a person handles it, and nothing is retried automatically."""
    being_retried: bool
    """A worker retries it now, or will in a moment."""


class ReviewQueue(BaseModel, frozen=True):
    """The review queue: the oldest orders first, up to the requested number, and the sums over all."""

    cases: list[ReviewCase]
    orders: int
    at_risk: dict[str, Decimal]
    """Amount per currency."""
    disputes: list[OpenDispute]
    """Charges that customers' banks dispute."""


def case_of(order: OrderInstance, at_risk: Decimal, currency: str) -> NewCase:
    """Makes the case of an order whose compensations have run: about the first that is still due."""
    step = order.undo_plan()[0]
    error: dict[str, Any] = order.journal[step].undo_error or {}
    return NewCase(
        order.id,
        step,
        currency,
        at_risk,
        str(error.get("message", "unknown")),
        str(error.get("code", "unknown")),
        hold=error.get("error_code") in {PAID_ELSEWHERE, PAID_AND_REJECTED},
    )


async def put(tx: Tx, cases: Sequence[NewCase], *, hold: bool = False) -> None:
    """Puts orders under manual review. For an order that is there already, the next retry comes later each
    time. `hold`: nothing is retried until a person requests it."""
    if not cases:
        return
    s = settings().review
    pauses = {"first": s.retry_seconds, "longest": s.retry_max_seconds}
    await tx.execute(_PUT, {"rows": as_json(list(map(asdict, cases))), **pauses, "hold": hold})


async def clear(tx: Tx, order_ids: Sequence[str]) -> None:
    """Removes orders from manual review, because they were compensated after all."""
    if order_ids:
        await tx.execute(_CLEAR, {"ids": list(order_ids)})


def clear_sync(connection: Connection, order_ids: Sequence[str]) -> None:
    """Runs `clear` in a transaction of a caller that cannot await."""
    connection.execute(_CLEAR, {"ids": list(order_ids)})


async def read_queue(most: int = 500) -> ReviewQueue:
    """Reads the review queue."""
    async with transaction() as tx:
        return await tx.run_sync(_read, most)


def read_queue_sync(most: int = 500) -> ReviewQueue:
    """Runs `read_queue` for callers without an event loop."""
    with sync_engine(settings().database_url).connect() as connection:
        return _read(connection, most)


def _read(connection: Connection, most: int) -> ReviewQueue:
    cases = [_case(row) for row in connection.execute(_OPEN, {"most": most}).mappings()]
    totals = connection.execute(_TOTALS).all()
    return ReviewQueue(
        cases=cases,
        orders=sum(row.orders for row in totals),
        at_risk={row.currency: exact(row.at_risk, row.currency) for row in totals},
        disputes=read_open(connection, most),
    )


def _case(row: RowMapping) -> ReviewCase:
    return ReviewCase(**{**row, "amount_at_risk": exact(row["amount_at_risk"], row["currency"])})


_LATER = "It is retried automatically; resolve-order with 'retry_now' retries at once."
_NO_CLEAR_ANSWER = f"The gateway gave no clear answer. {_LATER}"
_NO_CARRIER = f"The carrier gave no clear answer. {_LATER}"
_CONTRADICTION = (
    "The external system's record differs from the request. "
    "Look the order up in the carrier's or the inventory service's system and correct it there; "
    "then resolve-order with 'retry_now', or 'written_off'."
)
_ADVICE = {
    PaidAndRejected.code: "The order is paid and was not valid; nothing was shipped or refunded. "
    "Correct what its reasons name, then order-saga retry: its payment stays. "
    "If it cannot be corrected, resolve-order with 'retry_now' refunds what the gateway has; "
    "give back what others have, then 'refunded_by_hand' with the reference.",
    PaidElsewhere.code: "Others than the gateway have {amount} for this order: paid already, by gift card, "
    "by transfer or on delivery. Give it back where it was paid, then resolve-order with 'refunded_by_hand' "
    "and the reference; or 'written_off', if it was never paid. Trying again cannot help.",
    RefundRefused.code: "The gateway refuses to refund {amount}. "
    "Run resolve-order: 'hold', then refund it in another way, then 'refunded_by_hand' with the reference; "
    "or 'retry_now' once the gateway accepts the refund "
    "(or you made it in the gateway's dashboard); or 'written_off'.",
    VoidRefused.code: "The carrier does not take the label back. Claim the refund in its dashboard, "
    "then resolve-order with 'retry_now'; or 'written_off' to accept its cost.",
    CarrierMismatch.code: _CONTRADICTION,
    InventoryMismatch.code: _CONTRADICTION,
    CarrierUnavailable.code: _NO_CARRIER,
    CarrierTimeout.code: _NO_CARRIER,
    PaymentGatewayError.code: _NO_CLEAR_ANSWER,
    PaymentGatewayTimeout.code: _NO_CLEAR_ANSWER,
    StepTimeout.code: _NO_CLEAR_ANSWER,
}
"""What to do, by the error's code. Words in quotes are those of the `resolve-order` form."""


def advice(case: ReviewCase) -> str:
    """Returns what a person can do about the order, in a sentence or two."""
    if case.being_retried:
        return (
            "Nothing now: it is being retried. "
            "To refund in another way nevertheless: resolve-order with 'hold' first."
        )
    otherwise = (
        "See the compensation's task run for the error. "
        "Once its cause is fixed: resolve-order with 'retry_now'; or 'written_off'."
    )
    amount = show(case.amount_at_risk, case.currency)
    return _ADVICE.get(case.error_code, otherwise).format(amount=amount)


def _currency(given: str) -> str:
    if not re.fullmatch("[A-Z]{3}", given):
        raise ValueError("three capital letters, such as USD")
    return given


def _age(given: object) -> object:
    if not isinstance(given, str):
        return given
    try:
        ago = parse(given).ago
    except ValueError:
        ago = None
    if ago is None:
        raise ValueError("a number and a unit, such as 30m, 24h or 7d")
    return ago


class Selection(BaseModel, frozen=True, extra="forbid"):
    """What the selected orders have in common. None: any value."""

    step: str | None = None
    """The step whose compensation failed."""
    code: str | None = None
    """The last error's code, such as `refund_refused`."""
    currency: Annotated[str, AfterValidator(_currency)] | None = None
    held: bool | None = None
    """Whether nothing is retried until a person requests it."""
    older_than: Annotated[timedelta, BeforeValidator(_age)] | None = None
    at_least: Annotated[Decimal, Field(ge=0)] | None = None
    """The minimum at risk, in the order's currency."""
    at_most: Annotated[Decimal, Field(ge=0)] | None = None


def select_sync(selection: Selection, ids: Sequence[str] | None = None) -> list[ReviewCase]:
    """Returns the matching orders under manual review, the oldest first. With `ids`: among these, also
    those that were resolved since."""
    parameters = {**selection.model_dump(), "ids": None if ids is None else list(ids)}
    with sync_engine(settings().database_url).connect() as connection:
        return [_case(row) for row in connection.execute(_SELECT, parameters).mappings()]
