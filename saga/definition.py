"""The definition of a saga: a table of steps, validated when it is defined."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from saga.instance import Instance
from saga.limit import Limit

StepTask = Callable[[Any], Awaitable[object]]
"""Is called with a `saga.execution.StepExecution`, which also receives the results."""


class Kind(StrEnum):
    """What becomes of a step when a later one fails."""

    READ_ONLY = "read-only"
    """Has no effect outside of the journal: nothing to compensate."""
    COMPENSATABLE = "compensatable"
    """Has a compensation."""
    PIVOT = "pivot"
    """The point of no return: once it is done, the instance only goes forward. Its compensation, if it has
    one, is for an instance that a person sends back; no failure runs it."""
    RETRIABLE = "retriable"
    """Comes after the pivot: retried until it succeeds."""


@dataclass(frozen=True, slots=True)
class Step:
    """One row of the table."""

    task: StepTask
    undo: StepTask | None
    """The compensation."""
    kind: Kind
    time_limit: float
    """Seconds for one attempt of one instance; after them the result is unclear."""
    retries: int
    """How often a transient failure is retried, with growing pauses."""
    undo_retries: int = 6
    name: str = ""
    """The task's, unless given."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or _name(self.task))

    @property
    def undo_name(self) -> str | None:
        """The compensation's name."""
        return None if self.undo is None else _name(self.undo)

    @property
    def journals_intent(self) -> bool:
        """Whether the step only calls an external system, so that its intent is committed before."""
        return self.kind is not Kind.READ_ONLY and getattr(self.task, "is_external", False)


def _name(task: object) -> str:
    return str(getattr(task, "__name__", task))


class SagaDefinitionError(ValueError):
    """The table of steps is not valid; names every problem."""


def _ignore(_instances: Sequence[Instance], _outcomes: Mapping[str, str]) -> None:
    pass


class Saga:
    """Steps in their sequence. Raises `SagaDefinitionError` unless compensating in reverse can keep its
    promise."""

    def __init__(
        self, *steps: Step, compensated: Callable[[Sequence[Instance], Mapping[str, str]], None] = _ignore
    ) -> None:
        """`compensated`: is called with instances that were compensated, and the outcomes of those that got
        one, by id."""
        self.steps, self.compensated = steps, compensated
        if problems := list(self._problems()):
            raise SagaDefinitionError("; ".join(problems))
        self._by_name = {step.name: step for step in steps}
        self.pivot = next(step.name for step in steps if step.kind is Kind.PIVOT)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __getitem__(self, name: str) -> Step:
        return self._by_name[name]

    @property
    def names(self) -> frozenset[str]:
        """The names of all steps."""
        return frozenset(self._by_name)

    @property
    def limits(self) -> frozenset[Limit]:
        """The limits of the steps' external calls, and of their compensations'."""
        tasks = [task for step in self.steps for task in (step.task, step.undo)]
        return frozenset(limit for task in tasks if (limit := getattr(task, "limit", None)) is not None)

    def following(self, step: Step) -> Step | None:
        """Returns the next step; None after the last one."""
        return dict(pairwise(self.steps)).get(step)

    def is_past_pivot(self, name: str) -> bool:
        """Returns whether the step comes after the pivot."""
        return self._by_name[name].kind is Kind.RETRIABLE

    def _problems(self) -> Iterator[str]:
        names = [step.name for step in self.steps]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"{name} is in the table {names.count(name)} times"
        pivots = [i for i, step in enumerate(self.steps) if step.kind is Kind.PIVOT]
        if len(pivots) != 1:
            yield f"there must be exactly one pivot, there are {len(pivots)}"
        for i, step in enumerate(self.steps):
            if step.kind is Kind.COMPENSATABLE and step.undo is None:
                yield f"{step.name} is compensatable and has no compensation"
            if step.kind not in {Kind.COMPENSATABLE, Kind.PIVOT} and step.undo is not None:
                yield f"{step.name} is {step.kind} and has a compensation, which would never run"
            if len(pivots) == 1 and i > pivots[0] and step.kind is not Kind.RETRIABLE:
                after = "comes after the pivot, where only retriable steps may be"
                yield f"{step.name} is {step.kind} and {after}"
            if len(pivots) == 1 and i < pivots[0] and step.kind is Kind.RETRIABLE:
                yield f"{step.name} is retriable and comes before the pivot"
            if step.time_limit <= 0 or step.retries < 0 or step.undo_retries < 0:
                yield f"{step.name} needs a time limit above 0 and retries of 0 or more"
