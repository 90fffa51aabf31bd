"""An order that this worker is working on: what was ordered, its fence, and its journal as far as this worker knows it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from shop.errors import OrderError
from shop.order import Order, read_stored


@dataclass(slots=True)
class Entry:
    """A journal row; see `shop.tables.OrderStep`."""

    step: str
    status: str
    number: int = 0
    attempts: int = 1
    notes: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    undo_due: bool = False
    undo_status: str | None = None
    undo_number: int | None = None
    undo_attempts: int = 0
    undo_result: dict[str, Any] | None = None
    undo_error: dict[str, Any] | None = None


@dataclass(eq=False)
class OrderUnderWay:
    """Held under a lease; every write about it carries its fence."""

    id: str
    content: dict[str, Any]
    fence: int
    lease: UUID | None = None
    """The lease under which this worker claimed it."""
    takeovers: int = 0
    lone_deaths: int = 0
    """How often its worker died with no other order in hand."""
    on_trial: bool = False
    """Whether its workers died so often that it was claimed without the others, to see whether it is the cause."""
    left_by: str | None = None
    """The flow run that had it before."""
    left_behind: bool = False
    """Whether whoever had it before had not handed it back: its lease had run out when this worker claimed it."""
    submitted_at: datetime | None = None
    cancel_reason: str | None = None
    """Why it is to be cancelled, if somebody had asked for that when it was claimed."""
    journal: dict[str, Entry] = field(default_factory=dict)
    failing_step: str | None = None
    failure: OrderError | None = None
    lost: bool = False
    """Another worker has it now; nothing may be written about it any more."""
    unwritten: dict[str, Any] = field(default_factory=dict)
    """Journal records by step that wait for the next write; see `shop.journal.remember`."""
    in_flight: dict[str, asyncio.Task[Any]] = field(default_factory=dict)
    """Calls to the outside that were too slow for their batch and still run."""
    _order: Order | None = None

    @property
    def order(self) -> Order:
        """The order, parsed. Only after validation: before it, `content` may be anything."""
        if self._order is None:
            self._order = read_stored(self.content)
        return self._order

    @order.setter
    def order(self, order: Order) -> None:
        self._order = order

    def done(self, step: str) -> bool:
        """Whether the journal has the step as done (and not undone since)."""
        entry = self.journal.get(step)
        return entry is not None and entry.status == "done" and entry.undo_status != "done"

    def result(self, step: str) -> dict[str, Any]:
        """What the step produced; empty if it was not done."""
        entry = self.journal.get(step)
        return (entry.result or {}) if entry else {}

    def fail(self, step: str, failure: OrderError) -> None:
        """The first failure is the one that counts; compensations do not change it."""
        if self.failure is None:
            self.failing_step, self.failure = step, failure

    def undo_plan(self) -> tuple[str, ...]:
        """The steps whose compensation is due, last begun first."""
        due = [entry for entry in self.journal.values() if entry.undo_due]
        return tuple(entry.step for entry in sorted(due, key=lambda entry: -entry.number))
