"""Reads an `OrderStory`: the history of one order, step by step, for its page, its diagrams and `order-saga
show`. The saga's table of steps is joined with the journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, text

from saga.database import sync_engine, transaction
from saga.definition import Saga, Step
from saga.errors import SagaCancelled, SagaReturned
from shop.notifications.kinds import Kind as MailKind
from shop.orders.outcomes import Outcome
from shop.orders.page.details import OrderDetails, PaymentSoFar, customer_lines, details_of
from shop.orders.tries import EARLIER_TRIES, EarlierTry, read_tries
from shop.payments.charge import STEP as PAYMENT
from shop.runtime.times import shown_minute
from shop.settings import settings
from shop.values.money import currency_of

_CANCELLED = {SagaCancelled.code, SagaReturned.code}
# One statement, so one snapshot. A story has no customer data: of an invalid order's problems only the place
# and what was expected, and of its content what `details_of` takes.
_STORY = text(
    f"""
    SELECT o.id AS order_id, {EARLIER_TRIES} AS tries, o.status, o.outcome, o.failing_step, o.currency,
        coalesce(
            o.failure ->> 'code',
            (SELECT s.error ->> 'code' FROM order_step s WHERE s.order_id = o.id AND s.step = o.failing_step)
        ) AS failure_code,
        CASE WHEN o.outcome = 'rejected' THEN (
            SELECT coalesce(jsonb_agg((p ->> 'place') || ': expected ' || (p ->> 'expected')), '[]')
            FROM order_step s, jsonb_array_elements(s.error -> 'problems') p
            WHERE s.order_id = o.id AND s.step = o.failing_step)
            ELSE o.reasons END AS reasons,
        o.amount_charged, o.amount_refunded, o.amount_at_risk, o.amount_elsewhere, o.content,
        (SELECT s.result ->> 'payment_status' FROM order_step s
            WHERE s.order_id = o.id AND s.step = :payment) AS payment_status,
        (SELECT coalesce(sum(r.amount), 0) FROM received_payment r WHERE r.order_id = o.id) AS received,
        o.submitted_at, o.finished_at, o.not_before, o.takeovers, o.flow_run_id,
        extract(epoch FROM coalesce(o.finished_at, clock_timestamp()) - o.submitted_at)::float AS seconds,
        (SELECT s.tracking_number FROM shipment s WHERE s.order_id = o.id) AS tracking_number,
        EXISTS (SELECT 1 FROM shipment s WHERE s.order_id = o.id AND s.returned_at IS NOT NULL) AS returned,
        (SELECT coalesce(jsonb_agg(jsonb_build_object(
                'kind', m.kind, 'sent', m.sent_at IS NOT NULL, 'error', m.error, 'try_number', m.try_number)
                ORDER BY m.id), '[]')
            FROM outbox m WHERE m.order_id = o.id AND m.kind = ANY(CAST(:kinds AS text[]))) AS mails,
        (SELECT coalesce(jsonb_agg(jsonb_build_object(
                'step', s.step, 'status', s.status, 'attempts', s.attempts,
                'seconds', extract(epoch FROM s.ended_at - s.begun_at)::float, 'error', s.error ->> 'code',
                'undo_status', s.undo_status, 'undo_due', s.undo_due,
                'undo_number', s.undo_number, 'undo_attempts', s.undo_attempts,
                'undo_seconds', extract(epoch FROM s.undo_ended_at - s.undo_begun_at)::float,
                'undo_said', s.undo_result ->> 'compensation_status',
                'undo_error', s.undo_error ->> 'code') ORDER BY s.number), '[]')
            FROM order_step s WHERE s.order_id = o.id) AS steps,
        (SELECT coalesce(jsonb_agg(jsonb_build_object(
                'at', d.at, 'action', d.action,
                'by', d."by", 'started_by', d.started_by, 'reference', d.reference,
                'amount', d.amount::text) ORDER BY d.id), '[]')
            FROM desk_entry d WHERE d.order_id = o.id) AS review
    FROM customer_order o WHERE o.id = :id
    """  # noqa: S608  (a constant)
)


_CONTENT = text("SELECT content FROM customer_order WHERE id = :id")


@dataclass(frozen=True, slots=True)
class StepRow:
    """A journal row; see `shop.orders.tables`."""

    step: str
    status: str
    attempts: int = 1
    seconds: float | None = None
    error: str | None = None
    undo_status: str | None = None
    undo_due: bool = False
    undo_number: int | None = None
    undo_attempts: int = 0
    undo_seconds: float | None = None
    undo_said: str | None = None
    undo_error: str | None = None


@dataclass(frozen=True, slots=True)
class MailRow:
    """A mail of the order, and whether it was sent."""

    kind: str
    sent: bool
    error: str | None = None
    try_number: int = 1


@dataclass(frozen=True, slots=True)
class ReviewEntry:
    """An action of a person on the order; see `shop.review.tables`. Without the reason: free text,
    which may name the customer."""

    at: str
    """To the minute, in the shop's time zone, with its name."""
    action: str
    by: str
    """As typed."""
    amount: Decimal = Decimal(0)
    reference: str | None = None
    started_by: str | None = None
    """The user as the system knows them."""


@dataclass(frozen=True, slots=True)
class OrderStory:
    """One order at one moment, without customer data."""

    order_id: str
    status: str
    outcome: str | None
    steps: Sequence[StepRow] = ()
    failing_step: str | None = None
    failure_code: str | None = None
    reasons: Sequence[str] = ()
    currency: str = "USD"
    amount_charged: Decimal = Decimal(0)
    amount_refunded: Decimal = Decimal(0)
    amount_at_risk: Decimal = Decimal(0)
    amount_elsewhere: Decimal = Decimal(0)
    """What others have taken or will collect."""
    details: OrderDetails | None = None
    """None: the order is not well-formed."""
    submitted_at: datetime | None = None
    finished_at: datetime | None = None
    not_before: datetime | None = None
    seconds: float | None = None
    """From submission to its outcome, or until now."""
    takeovers: int = 0
    flow_run_id: str | None = None
    """The run that last held it."""
    tracking_number: str | None = None
    returned: bool = False
    """Whether the parcel was returned: its label is void."""
    mails: Sequence[MailRow] = ()
    review: Sequence[ReviewEntry] = ()
    tries: Sequence[EarlierTry] = ()
    """The earlier tries, without the reasons of invalid ones. Steps, outcome and reasons are those of the
    current one."""

    @property
    def amounts(self) -> dict[str, Decimal]:
        """Its amounts by name."""
        return {
            "charged": self.amount_charged,
            "refunded": self.amount_refunded,
            "at risk": self.amount_at_risk,
            "elsewhere": self.amount_elsewhere,
        }

    @property
    def end(self) -> str:
        """The outcome, or the status of an order that has none yet."""
        if self.outcome or self.status != "received":
            return self.outcome or self.status
        return "under way" if self.steps else "waiting"

    @property
    def cancelled(self) -> bool:
        """Whether somebody cancelled it."""
        return self.failure_code in _CANCELLED


class StepState(StrEnum):
    """The state of a step."""

    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"
    """Done, then compensated."""
    UNDER_WAY = "under way"
    WAITING = "waiting"
    """Not begun yet."""
    SKIPPED = "skipped"
    """Never begun, and will not be."""
    ABSENT = "not in the saga then"
    """Never begun although a later step was: the run's saga did not have it."""


class UndoState(StrEnum):
    """The state of a compensation."""

    DONE = "done"
    NOTHING = "nothing to undo"
    FAILED = "failed"
    UNDER_WAY = "under way"
    DUE = "due"


@dataclass(frozen=True, slots=True)
class UndoView:
    name: str
    state: UndoState
    attempts: int
    seconds: float | None
    number: int
    """Compensations ran in ascending order of this."""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StepView:
    """A step of the saga with its state."""

    name: str
    kind: str
    state: StepState
    attempts: int = 0
    seconds: float | None = None
    error: str | None = None
    undo: UndoView | None = None
    """Its compensation, if that has run or is due."""

    @property
    def retried(self) -> bool:
        return self.attempts > 1


def step_views(story: OrderStory, saga: Saga) -> list[StepView]:
    """Returns every step of the saga in its sequence, then journalled steps that the saga no longer has."""
    rows = {row.step: row for row in story.steps}
    last = max((place for place, step in enumerate(saga) if step.name in rows), default=-1)
    views = [
        _view(step, rows.pop(step.name, None), story, passed=place < last) for place, step in enumerate(saga)
    ]
    return views + [
        StepView(row.step, "no longer in the saga", _state(row, story), row.attempts, row.seconds, row.error)
        for row in rows.values()
    ]


def undos_in_order(steps: Sequence[StepView]) -> list[UndoView]:
    """Returns the compensations in the order in which they ran, then those that are due."""
    undos = [step.undo for step in reversed(steps) if step.undo is not None]
    return sorted(undos, key=lambda undo: undo.number)


async def read_story(order_id: str) -> OrderStory | None:
    """Returns None if there is no such order."""
    async with transaction() as tx:
        return await tx.run_sync(_read, order_id)


def read_story_sync(order_id: str) -> OrderStory | None:
    """Runs `read_story` for callers without an event loop."""
    with sync_engine(settings().database_url).connect() as connection:
        return _read(connection, order_id)


def read_customer_lines_sync(order_id: str) -> list[str]:
    """Returns what a story leaves out of the order: customer, addresses, metadata. For a person's eyes; it is
    stored nowhere else."""
    with sync_engine(settings().database_url).connect() as connection:
        content = connection.execute(_CONTENT, {"id": order_id}).scalar_one_or_none()
    return customer_lines(content) if content is not None else []


def _read(connection: Connection, order_id: str) -> OrderStory | None:
    asked = {"id": order_id, "kinds": [str(kind) for kind in MailKind], "payment": PAYMENT}
    row = connection.execute(_STORY, asked).mappings().one_or_none()
    if row is None:
        return None
    fields: dict[str, Any] = dict(row)
    paid = PaymentSoFar(fields.pop("payment_status"), fields.pop("received"), row["outcome"])
    content = fields.pop("content")
    fields["details"] = details_of(content, paid)
    if row["outcome"] is None:  # the column is written with the outcome
        fields["currency"] = currency_of(content)
    fields["steps"] = tuple(StepRow(**each) for each in row["steps"])
    fields["mails"] = tuple(MailRow(**each) for each in row["mails"])
    for each in row["review"]:
        each["at"] = shown_minute(datetime.fromisoformat(each["at"]))
        each["amount"] = Decimal(each["amount"])
    fields["review"] = tuple(ReviewEntry(**each) for each in row["review"])
    fields["tries"] = tuple(
        each.model_copy(update={"reasons": []}) if each.outcome is Outcome.REJECTED else each
        for each in read_tries(row["tries"])
    )
    return OrderStory(**fields)


def _view(step: Step, row: StepRow | None, story: OrderStory, *, passed: bool) -> StepView:
    if row is None:
        if passed and story.failing_step != step.name:
            return StepView(step.name, step.kind, StepState.ABSENT)
        failed_unwritten = story.failing_step == step.name
        skipped = story.outcome is not None or story.failing_step is not None
        state = StepState.FAILED if failed_unwritten else StepState.SKIPPED if skipped else StepState.WAITING
        return StepView(step.name, step.kind, state)
    state, undo = _state(row, story), _undo(step, row, story)
    return StepView(step.name, step.kind, state, row.attempts, row.seconds, row.error, undo)


def _state(row: StepRow, story: OrderStory) -> StepState:
    if row.status == "done":
        return StepState.UNDONE if row.undo_status == "done" else StepState.DONE
    if row.status == "failed" or story.failing_step == row.step or story.outcome is not None:
        return StepState.FAILED
    return StepState.UNDER_WAY


def _undo(step: Step, row: StepRow, story: OrderStory) -> UndoView | None:
    ran = row.undo_status is not None
    due = row.undo_due and (story.failing_step is not None) and story.outcome != "completed"
    if step.undo is None or not (ran or due):
        return None
    name = str(getattr(step.undo, "__name__", step.name))
    number = row.undo_number or 2**62  # due compensations come after those that ran
    return UndoView(name, _undo_state(row), row.undo_attempts, row.undo_seconds, number, row.undo_error)


def _undo_state(row: StepRow) -> UndoState:
    match row.undo_status:
        case "done":
            return UndoState.NOTHING if (row.undo_said or "").startswith("no_") else UndoState.DONE
        case "failed":
            return UndoState.FAILED
        case "begun":
            return UndoState.UNDER_WAY
        case _:
            return UndoState.DUE
