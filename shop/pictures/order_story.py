"""What happened to one order, step by step: the saga's own table beside what the journal says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, text

from shop.database import sync_engine, transaction
from shop.errors import OrderCancelled, OrderReturned
from shop.notifications.kinds import Kind as MailKind
from shop.saga import Saga, Step
from shop.settings import settings

_CANCELLED = {OrderCancelled.code, OrderReturned.code}
# One statement, so one moment. Nothing of the customer is read: of what made an order invalid only where it was, and what should be there.
_STORY = text(
    """
    SELECT o.id AS order_id, o.status, o.outcome, o.failing_step, o.currency,
        coalesce(o.failure ->> 'code', (SELECT s.error ->> 'code' FROM order_step s WHERE s.order_id = o.id AND s.step = o.failing_step))
            AS failure_code,
        CASE WHEN o.outcome = 'rejected' THEN (SELECT coalesce(jsonb_agg((p ->> 'place') || ': expected ' || (p ->> 'expected')), '[]')
            FROM order_step s, jsonb_array_elements(s.error -> 'problems') p WHERE s.order_id = o.id AND s.step = o.failing_step)
            ELSE o.reasons END AS reasons,
        o.amount_charged, o.amount_refunded, o.amount_at_risk, o.submitted_at, o.finished_at, o.not_before, o.takeovers, o.flow_run_id,
        extract(epoch FROM coalesce(o.finished_at, clock_timestamp()) - o.submitted_at)::float AS seconds,
        (SELECT s.tracking_number FROM shipment s WHERE s.order_id = o.id) AS tracking_number,
        (SELECT coalesce(jsonb_agg(jsonb_build_object('kind', m.kind, 'sent', m.sent_at IS NOT NULL, 'error', m.error) ORDER BY m.id), '[]')
            FROM outbox m WHERE m.order_id = o.id AND m.kind = ANY(CAST(:kinds AS text[]))) AS mails,
        (SELECT coalesce(jsonb_agg(jsonb_build_object('step', s.step, 'status', s.status, 'attempts', s.attempts,
            'seconds', extract(epoch FROM s.ended_at - s.begun_at)::float, 'error', s.error ->> 'code', 'undo_status', s.undo_status,
            'undo_due', s.undo_due, 'undo_number', s.undo_number, 'undo_attempts', s.undo_attempts,
            'undo_seconds', extract(epoch FROM s.undo_ended_at - s.undo_begun_at)::float,
            'undo_said', s.undo_result ->> 'compensation_status', 'undo_error', s.undo_error ->> 'code') ORDER BY s.number), '[]')
            FROM order_step s WHERE s.order_id = o.id) AS steps,
        (SELECT coalesce(jsonb_agg(jsonb_build_object('at', to_char(d.at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'), 'action', d.action,
            'by', d."by", 'started_by', d.started_by, 'reference', d.reference, 'amount', d.amount::text) ORDER BY d.id), '[]')
            FROM desk_entry d WHERE d.order_id = o.id) AS desk
    FROM customer_order o WHERE o.id = :id
    """
)


@dataclass(frozen=True, slots=True)
class StepRow:
    """A journal row; see `shop.tables.OrderStep`."""

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
    """A mail that is due for the order, and whether it has left."""

    kind: str
    sent: bool
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DeskRow:
    """What a person did about the order; see `shop.tables.DeskEntry`. Not their reason: that is free text, and may name the customer."""

    at: str
    """Minute, UTC."""
    action: str
    by: str
    """As typed."""
    amount: Decimal = Decimal(0)
    reference: str | None = None
    started_by: str | None = None
    """What the system knows of who it was."""


@dataclass(frozen=True, slots=True)
class OrderStory:
    """One order at one moment. Of the customer there is nothing in it."""

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
    submitted_at: datetime | None = None
    finished_at: datetime | None = None
    not_before: datetime | None = None
    seconds: float | None = None
    """From submission to its outcome, or until now."""
    takeovers: int = 0
    flow_run_id: str | None = None
    """The run that had it last."""
    tracking_number: str | None = None
    mails: Sequence[MailRow] = ()
    desk: Sequence[DeskRow] = ()

    @property
    def end(self) -> str:
        """The outcome; for an order without one, how far it is."""
        return self.outcome or {"received": "waiting" if not self.steps else "under way"}.get(self.status, self.status)

    @property
    def cancelled(self) -> bool:
        """Whether it failed because somebody did not want it any more."""
        return self.failure_code in _CANCELLED


class StepState(StrEnum):
    """What became of a step."""

    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"
    """Done, and taken back since."""
    UNDER_WAY = "under way"
    WAITING = "waiting"
    """Not yet begun."""
    SKIPPED = "skipped"
    """Never begun, and never will be."""
    ABSENT = "not in the saga then"
    """Never begun, although a later step was: the run that had the order did not know it."""


class UndoState(StrEnum):
    """What became of a compensation."""

    DONE = "done"
    NOTHING = "nothing to undo"
    FAILED = "failed"
    UNDER_WAY = "under way"
    DUE = "due"


@dataclass(frozen=True, slots=True)
class ToldUndo:
    name: str
    state: UndoState
    attempts: int
    seconds: float | None
    number: int
    """Compensations ran in the sequence of these."""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ToldStep:
    """A step of the saga, and what became of it."""

    name: str
    kind: str
    state: StepState
    attempts: int = 0
    seconds: float | None = None
    error: str | None = None
    undo: ToldUndo | None = None
    """If its compensation has run, or has to."""

    @property
    def retried(self) -> bool:
        return self.attempts > 1


def tell_steps(story: OrderStory, saga: Saga) -> list[ToldStep]:
    """Every step of the saga in its sequence, with what the journal says of it; a step that was in the saga once comes last."""
    rows = {row.step: row for row in story.steps}
    last = max((place for place, step in enumerate(saga) if step.name in rows), default=-1)
    told = [_told(step, rows.pop(step.name, None), story, passed=place < last) for place, step in enumerate(saga)]
    return told + [
        ToldStep(row.step, "no longer in the saga", _state(row, story), row.attempts, row.seconds, row.error) for row in rows.values()
    ]


def undos_in_sequence(steps: Sequence[ToldStep]) -> list[ToldUndo]:
    """The compensations as they ran; those that are due come last, as they will run."""
    undos = [step.undo for step in reversed(steps) if step.undo is not None]
    return sorted(undos, key=lambda undo: undo.number)


async def read_story(order_id: str) -> OrderStory | None:
    """None: there is no such order."""
    async with transaction() as tx:
        return await tx.run_sync(_read, order_id)


def read_story_sync(order_id: str) -> OrderStory | None:
    """The same, for callers without an event loop."""
    with sync_engine(settings().database_url).connect() as connection:
        return _read(connection, order_id)


def _read(connection: Connection, order_id: str) -> OrderStory | None:
    row = connection.execute(_STORY, {"id": order_id, "kinds": [str(kind) for kind in MailKind]}).mappings().one_or_none()
    if row is None:
        return None
    fields: dict[str, Any] = dict(row)
    fields["steps"] = tuple(StepRow(**each) for each in row["steps"])
    fields["mails"] = tuple(MailRow(**each) for each in row["mails"])
    fields["desk"] = tuple(DeskRow(**{**each, "amount": Decimal(each["amount"])}) for each in row["desk"])
    return OrderStory(**fields)


def _told(step: Step, row: StepRow | None, story: OrderStory, *, passed: bool) -> ToldStep:
    if row is None:
        if passed and story.failing_step != step.name:
            return ToldStep(step.name, step.kind, StepState.ABSENT)
        failed_unwritten = story.failing_step == step.name
        skipped = story.outcome is not None or story.failing_step is not None
        state = StepState.FAILED if failed_unwritten else StepState.SKIPPED if skipped else StepState.WAITING
        return ToldStep(step.name, step.kind, state)
    return ToldStep(step.name, step.kind, _state(row, story), row.attempts, row.seconds, row.error, _undo(step, row, story))


def _state(row: StepRow, story: OrderStory) -> StepState:
    if row.status == "done":
        return StepState.UNDONE if row.undo_status == "done" else StepState.DONE
    if row.status == "failed" or story.failing_step == row.step or story.outcome is not None:
        return StepState.FAILED
    return StepState.UNDER_WAY


def _undo(step: Step, row: StepRow, story: OrderStory) -> ToldUndo | None:
    ran = row.undo_status is not None
    due = row.undo_due and (story.failing_step is not None) and story.outcome != "completed"
    if step.undo is None or not (ran or due):
        return None
    name = str(getattr(step.undo, "__name__", step.name))
    last = 2**62  # due ones come after those that ran
    return ToldUndo(name, _undo_state(row), row.undo_attempts, row.undo_seconds, row.undo_number or last, row.undo_error)


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
