"""The execution of one step, or its compensation, for many instances:
what is due, and how each instance ended.

There are two kinds of action:

- A *database action* is set-based and gets the transaction and the instances. Its effect and the journal rows
  are one commit (`saga.database_action`).
- An *external action* is written for one instance. The engine commits the intent, runs hundreds of calls
  concurrently, and commits the results together (`saga.external_action`).

A step can combine them: the external action runs first, and the database action runs in the transaction that
commits the results.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from saga import journal
from saga.configuration import config
from saga.database import Tx, after_commit, transaction
from saga.definition import Kind, Step
from saga.errors import BatchFailing, InfrastructureError, LeaseLost, StepError, UnexpectedStepError
from saga.failpoints import Failpoint, failpoint
from saga.infrastructure import is_infrastructure_error
from saga.instance import Instance
from saga.journal import Record

log = logging.getLogger(__name__)

_MINORITY_DIVISOR = 5
"""A batch may lose at most its size divided by this: a fifth."""
_RECENT_DIVISOR = 4
"""An intent was committed recently within the lease's duration divided by this."""
INTENT, RESULT = EXTERNAL_PARTS = ("intent", "result")
"""The two journal writes of an external action. A database action has one."""
Result = BaseModel | Mapping[str, Any]
DatabaseAction = Callable[[Tx, Sequence[Instance]], Awaitable[Mapping[str, Result | StepError]]]
ReadingAction = Callable[[Sequence[Instance]], Awaitable[Mapping[str, Result | StepError]]]
ExternalAction = Callable[[Instance], Awaitable[Result]]
Close = Callable[[Tx, Sequence[Instance]], Awaitable[None]]
"""Writes the outcomes of instances in the transaction that records their last step."""


def record_name(task: object, part: str = "") -> str:
    """Names a journal write of a step or compensation as a failpoint; see `saga.failpoints`."""
    return f"the record of {getattr(task, '__name__', task)}{part and ', '}{part}"


class StepExecution:
    """One step (or, with `undo`, its compensation) for some instances, and its results.

    It is mutable: the task that runs it stores the results here. It is a plain object so that Prefect does
    not traverse it when it is a task's parameter, which costs more than the task itself.
    """

    def __init__(
        self,
        step: Step,
        instances: Sequence[Instance],
        *,
        undo: bool = False,
        straggler_timeout: float | None = None,
        following: Step | None = None,
        close: Close | None = None,
    ) -> None:
        """`following`: the next step, if its intent is to be committed with this one's results. `close`: for
        the saga's last step."""
        self.step, self.instances, self.undo = step, list(instances), undo
        self.straggler_timeout = straggler_timeout if len(instances) > 1 else None
        """Seconds without any answer after which instances whose calls still run are detached. None: wait for
        all."""
        self.done: list[Instance] = []
        self.failed: dict[Instance, StepError] = {}
        self.detached: list[Instance] = []
        """Instances that continue without their batch."""
        self.postponed: dict[Instance, StepError] = {}
        """Instances that cannot succeed now, because an external system or the infrastructure is unavailable.
        """
        self.tried = False
        self._following, self._close = following, close

    @property
    def key(self) -> str:
        """Identifies the action: a step and its compensation have different keys."""
        return f"undo {self.step.name}" if self.undo else self.step.name

    def recorded(self, part: str = "") -> Failpoint:
        """Returns the failpoint of a journal write: of the step's only one, or of one part."""
        return failpoint(record_name(self.step.undo if self.undo else self.step.task, part))

    @property
    def title(self) -> str:
        """Names the instances for people: one by its id, several by their number."""
        return self.instances[0].id if len(self.instances) == 1 else f"{len(self.instances)} instances"

    async def start(self) -> list[Instance]:
        """Returns the instances for which the action has to run. A second attempt first reads the journal,
        because it is unclear what the first one committed."""
        if self.tried:
            async with transaction() as tx:
                await journal.load(tx, self.instances)
        self.tried, self.detached = True, []
        settled = {*self.failed, *self.postponed}
        todo: list[Instance] = []
        self.done = []
        for instance in self.instances:
            if not instance.lost and instance not in settled:
                (todo if self._has_work(instance) else self.done).append(instance)
        return todo

    def _has_work(self, instance: Instance) -> bool:
        if not self.undo:
            return not instance.done(self.step.name)
        entry = instance.journal.get(self.step.name)
        return entry is not None and entry.undo_due

    @property
    def changes_nothing(self) -> bool:
        """Whether the step has no effect. It needs no intent, and its result is written with the next journal
        write."""
        return not self.undo and self.step.kind is Kind.READ_ONLY

    async def begin(self, tx: Tx, instances: Sequence[Instance]) -> None:
        """Journals the intent."""
        if self.undo:
            await journal.begin_undo(tx, self.step.name, instances)
        elif not self.changes_nothing:
            # Also true for the pivot until it is done: its external part may have had an effect.
            due = self.step.undo is not None
            await journal.write(
                tx, [Record(instance, self.step.name, "begun", undo_due=due) for instance in instances]
            )

    def begun_ahead(self, instances: Sequence[Instance]) -> tuple[set[Instance], bool]:
        """Returns, once, the instances whose intent was committed with the results of the step before, and
        whether these are all, so recently that their lease cannot have expired since."""
        if self.undo:
            return set(), False
        begun: set[Instance] = set()
        oldest = time.monotonic() - config().lease_seconds / _RECENT_DIVISOR
        recent = True
        for instance in instances:
            ahead, instance.begun_ahead = instance.begun_ahead, None
            if ahead is not None and ahead[0] == self.step.name:
                begun.add(instance)
                recent = recent and ahead[1] > oldest
        return begun, recent and len(begun) == len(instances)

    async def record(self, tx: Tx, ends: Mapping[Instance, Result | StepError], *, begun: bool) -> None:
        """Journals the results, and what else commits with them: the next step's intent, or the outcomes.
        `begun`: the intent is in the journal already."""
        records = self.records(ends, begun=begun)
        if self.undo:
            await journal.write_undo(tx, self.step.name, records)
            return
        done = [instance for instance, end in ends.items() if not isinstance(end, StepError)]
        if self._following is not None and done:
            records += await _begin_ahead(tx, self._following, done)
        await journal.write(tx, records)
        if self._close is not None:
            await self._close(tx, done)

    def records(
        self, ends: Mapping[Instance, Result | StepError], *, begun: bool, began: float | None = None
    ) -> list[Record]:
        """Returns the results as journal records. A step that failed in its own transaction had no effect, so
        no compensation is due; an external call that failed may have had one."""
        compensatable, undoable, step = (
            self.step.kind is Kind.COMPENSATABLE,
            self.step.undo is not None,
            self.step.name,
        )
        ended = time.monotonic() if began else None
        return [
            Record(instance, step, "failed", None, end.details(), undoable and begun, not begun, began, ended)
            if isinstance(end, StepError)
            else Record(instance, step, "done", _json(end), None, compensatable, not begun, began, ended)
            for instance, end in ends.items()
        ]

    def settle(self, ends: Mapping[Instance, Result | StepError]) -> None:
        """Sorts the instances by their results. Raises a single instance's failure, so that its task run
        fails and is retried if a retry can help. Raises `BatchFailing` when too many instances failed to
        detach each of them."""
        for instance, end in ends.items():
            if not isinstance(end, StepError):
                self.done.append(instance)
            elif end.retry_after is not None and len(self.instances) > 1:
                self.postponed[instance] = end
            elif end.retryable and len(self.instances) > 1:
                self.detached.append(instance)
            else:
                self.failed[instance] = end
        if len(self.instances) == 1:
            self._raise_single_failure()
        elif not self.is_minority(len(self.detached)):
            raise BatchFailing(self.step.name, len(self.detached), len(self.instances))

    def is_minority(self, instances: int) -> bool:
        """Returns whether this many instances may be detached. If more fail, the cause is systemic, and
        running them one by one would be slower than retrying the batch."""
        return instances <= max(1, len(self.instances) // _MINORITY_DIVISOR)

    def _raise_single_failure(self) -> None:
        instance = self.instances[0]
        if instance.lost:
            raise LeaseLost(instance.id)
        if (failure := self.failed.pop(instance, None)) is not None:
            raise failure


async def _begin_ahead(tx: Tx, step: Step, instances: Sequence[Instance]) -> list[Record]:
    """Returns the intents of the next step, for instances without a cancel request, and for which it is not
    done: a step that is run again, such as a reservation that expired, leaves later results as they are."""
    todo = [instance for instance in instances if not instance.done(step.name)]
    stopped = await journal.cancel_requests(tx, todo)
    going = [instance for instance in todo if instance not in stopped]
    since = time.monotonic()

    def begun() -> None:
        for instance in going:
            instance.begun_ahead = (step.name, since)

    after_commit(tx, begun)
    return [Record(instance, step.name, "begun", undo_due=step.undo is not None) for instance in going]


async def record_failure(
    execution: StepExecution, instance: Instance, failure: StepError, *, begun: bool = False
) -> None:
    """Journals the failure of a single instance in a new transaction.
    `begun`: the intent is in the journal already."""
    async with transaction(execution.recorded(RESULT if begun else "")) as tx:
        if await journal.verify_ownership(tx, [instance]):
            if execution.undo and not begun:
                await execution.begin(tx, [instance])
            await execution.record(tx, {instance: failure}, begun=execution.undo or begun)


def as_step_error(execution: StepExecution, instance: Instance, error: Exception) -> StepError:
    """Returns the exception as a `StepError` without private data, and logs it unless it is one."""
    if isinstance(error, StepError):
        return instance.store.hooks.redacted(error, instance)
    if is_infrastructure_error(error):
        infrastructure_error = InfrastructureError(execution.step.name, error)
        log.warning("%s: %s", execution.title, infrastructure_error)
        return infrastructure_error
    trace = instance.store.hooks.redacted_text("".join(traceback.format_exception(error)), instance)
    log.error("%s failed unexpectedly (%s)", execution.step.name, execution.title, extra={"exception": trace})
    return UnexpectedStepError(execution.step.name, error)


def _json(result: Result) -> dict[str, Any]:
    if not isinstance(result, BaseModel):
        return dict(result)
    # What `model_dump` calls after it has checked its fifteen options.
    dumped: dict[str, Any] = result.__pydantic_serializer__.to_python(result, mode="json")
    return dumped
