"""A claimed saga instance: its payload, its fence, and its journal as far as this worker knows it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import UUID

from saga.errors import StepError

if TYPE_CHECKING:
    from saga.store import SagaStore

P = TypeVar("P")


@dataclass(slots=True)
class Entry:
    """One row of the journal."""

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


@dataclass(eq=False, slots=True)
class SagaInstance(Generic[P]):
    """An instance that this worker holds under a lease. Every journal write about it carries its fence."""

    id: str
    content: dict[str, Any]
    """What was submitted, as JSON."""
    fence: int
    store: SagaStore[P]
    lease: UUID | None = None
    """The lease under which this worker claimed it."""
    takeovers: int = 0
    lone_deaths: int = 0
    """How often its worker died while this was its only instance."""
    on_trial: bool = False
    """Whether it was claimed separately, because its workers died repeatedly, to find out whether it is the
    cause."""
    left_by: str | None = None
    """The id of the flow run that held it before."""
    lease_expired: bool = False
    """Whether the worker that held it before did not release it: its lease had expired when this worker
    claimed it."""
    submitted_at: datetime | None = None
    cancel_reason: str | None = None
    """Why it is to be cancelled, if that was requested before it was claimed."""
    journal: dict[str, Entry] = field(default_factory=dict)
    failing_step: str | None = None
    failure: StepError | None = None
    lost: bool = False
    """Whether this worker no longer holds it: another worker has it, or it was released, or it has ended.
    Nothing may be written about it."""
    begun_ahead: tuple[str, float] | None = None
    """The external step whose intent was committed with the results of the one before, and when
    (`time.monotonic`)."""
    closed: bool = False
    """Whether the transaction of its last step has committed its end, too: its outcome, or its release."""
    pending_records: dict[str, Any] = field(default_factory=dict)
    """Journal records by step that the next write includes; see `saga.journal.defer`."""
    claimed_at: float = field(default_factory=time.monotonic)
    in_flight: dict[str, asyncio.Task[Any]] = field(default_factory=dict)
    """External calls that were too slow for their batch and still run."""
    _payload: P | None = None

    @property
    def payload(self) -> P:
        """The content, parsed. Raises what the store's parser raises if the content is not valid."""
        if self._payload is None:
            self._payload = self.store.parse(self.content)
        return self._payload

    @payload.setter
    def payload(self, payload: P) -> None:
        self._payload = payload

    def done(self, step: str) -> bool:
        """Returns whether the journal has the step as done, and not compensated since."""
        entry = self.journal.get(step)
        return entry is not None and entry.status == "done" and entry.undo_status != "done"

    def next_number(self) -> int:
        """Returns the number of the next step to begin: after those of all that have begun."""
        return 1 + max([entry.number for entry in self.journal.values()], default=0)

    def result(self, step: str) -> dict[str, Any]:
        """Returns the step's result; empty if it is not done."""
        entry = self.journal.get(step)
        return (entry.result or {}) if entry else {}

    def fail(self, step: str, failure: StepError) -> None:
        """Records why the instance fails. Only the first failure counts; a compensation that fails does not
        change it."""
        if self.failure is None:
            self.failing_step, self.failure = step, failure

    def undo_plan(self) -> tuple[str, ...]:
        """Returns the steps whose compensation is due, last begun first."""
        due = [entry for entry in self.journal.values() if entry.undo_due]
        return tuple(entry.step for entry in sorted(due, key=lambda entry: -entry.number))


Instance = SagaInstance[Any]
