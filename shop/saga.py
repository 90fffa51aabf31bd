"""What a saga is: a table of steps, checked when it is defined.

Prefect-free: a step's `task` is anything that can be awaited with a `Work`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shop.work import Work

StepTask = Callable[["Work"], Awaitable[Any]]


class Kind(StrEnum):
    """What becomes of a step when a later one fails."""

    READ_ONLY = "read-only"
    """Changes nothing but the order's journal: nothing to undo."""
    COMPENSATABLE = "compensatable"
    """Can be undone."""
    PIVOT = "pivot"
    """The point of no return: once it is done the order only goes forward. Its compensation, if it has one, is for an order that a person
    sends back; no failure runs it."""
    RETRIABLE = "retriable"
    """After the pivot: tried until it succeeds."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the table."""

    name: str
    task: StepTask
    undo: StepTask | None
    kind: Kind
    time_limit: float
    """Seconds for one order and one attempt; after it the result is unclear."""
    retries: int
    """How often a failure that may pass is tried again, with growing pauses."""
    undo_retries: int = 6


class SagaDefinitionError(ValueError):
    """The table of steps makes no sense; says everything that is wrong with it."""


class Saga:
    """Steps in their sequence. Raises `SagaDefinitionError` unless undoing in reverse can keep its promise."""

    def __init__(self, *steps: Step) -> None:
        self.steps = steps
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

    def is_past_pivot(self, name: str) -> bool:
        """Whether the step comes after the point of no return."""
        return self._by_name[name].kind is Kind.RETRIABLE

    def _problems(self) -> Iterator[str]:
        names = [step.name for step in self.steps]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"{name} stands in the table {names.count(name)} times"
        pivots = [i for i, step in enumerate(self.steps) if step.kind is Kind.PIVOT]
        if len(pivots) != 1:
            yield f"there must be exactly one pivot, there are {len(pivots)}"
        for i, step in enumerate(self.steps):
            if step.kind is Kind.COMPENSATABLE and step.undo is None:
                yield f"{step.name} is compensatable and has no compensation"
            if step.kind not in {Kind.COMPENSATABLE, Kind.PIVOT} and step.undo is not None:
                yield f"{step.name} is {step.kind} and has a compensation, which would never run"
            if len(pivots) == 1 and i > pivots[0] and step.kind is not Kind.RETRIABLE:
                yield f"{step.name} is {step.kind} and comes after the pivot, where only retriable steps may be"
            if len(pivots) == 1 and i < pivots[0] and step.kind is Kind.RETRIABLE:
                yield f"{step.name} is retriable and comes before the pivot"
            if step.time_limit <= 0 or step.retries < 0 or step.undo_retries < 0:
                yield f"{step.name} needs a time limit above 0 and retries of 0 or more"
