"""What becomes of an order whose step fails: asked of the functions that decide it, with orders that are made up here.

Nothing of it is written down a second time: what is due to be undone says `shop.work`, in which sequence `shop.under_way`, where the
order ends `shop.ending`, and what a step may refuse its own docstring.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from shop import errors
from shop.ending import outcome_of
from shop.errors import OrderError
from shop.outcomes import Outcome
from shop.points import declared
from shop.saga import Kind, Saga, Step
from shop.under_way import Entry, OrderUnderWay
from shop.work import OUTSIDE, Work, recording

_NAMED = re.compile(r"`([A-Z]\w+)`")


@dataclass(frozen=True, slots=True)
class Fall:
    """One way in which an order leaves the straight way."""

    step: str
    refusal: type[OrderError]
    """`OrderError` itself: any failure."""
    undone: tuple[str, ...]
    """The steps whose compensations run, in this sequence."""
    outcome: Outcome
    """If all of them can be done."""
    unclear: bool
    """Whether what failed may have happened all the same, outside, so that the step's own compensation looks."""


def falls(saga: Saga) -> tuple[Fall, ...]:
    """Every way that leads to another end, in the sequence of the steps: refusals with an end of their own, and failures after which
    something is undone."""
    found: dict[Fall, None] = {}
    for step in saga:
        if saga.is_past_pivot(step.name):
            break  # from here on it is tried until it succeeds
        for outside in ways(step):
            ordinary = _fall(saga, step, OrderError, outside=outside)
            special = [fall for error in refusals(step) if (fall := _fall(saga, step, error, outside=outside)).outcome != ordinary.outcome]
            found |= dict.fromkeys(fall for fall in special if not outside or not step.undo)
            if ordinary.undone:
                found[ordinary] = None
    return tuple(found)


def after_undoing_failed(saga: Saga) -> Outcome:
    """Where an order ends if a compensation could not be done."""
    order = _begun(saga, next(step for step in saga if step.kind is Kind.PIVOT))
    order.failure = OrderError()
    return outcome_of(order, [])


def at_the_end(saga: Saga) -> Outcome:
    """Where an order ends if nothing fails."""
    order = _begun(saga, saga.steps[-1])
    return outcome_of(order, [])


def sent_back(saga: Saga) -> tuple[str, ...]:
    """What is undone of a shipped order that a person cancels; empty if shipping cannot be undone."""
    pivot = saga[saga.pivot]
    if pivot.undo is None:
        return ()
    order = _begun(saga, saga.steps[-1])
    order.journal[pivot.name].undo_due = True  # as `shop.journal.mark_due` has it
    return order.undo_plan()


def ways(step: Step, *, undo: bool = False) -> tuple[bool, ...]:
    """Whether the step (or its compensation) acts outside of our database (True), in it (False), or either: the journal's points tell."""
    points = declared()
    task = step.undo if undo else step.task
    inside = f"before {recording(task)}" in points
    outside = all(f"before {recording(task, part)}" in points for part in OUTSIDE)
    return tuple(way for way, there in ((False, inside), (True, outside)) if there) or (False,)


def refusals(step: Step) -> Iterator[type[OrderError]]:
    """The errors that the step's docstring names."""
    for name in _NAMED.findall(step.task.__doc__ or ""):
        error = getattr(errors, name, None)
        if isinstance(error, type) and issubclass(error, OrderError):
            yield error


def _fall(saga: Saga, step: Step, refusal: type[OrderError], *, outside: bool) -> Fall:
    order = _begun(saga, step)
    (record,) = Work(step, [order]).records({order: OrderError()}, begun=outside)
    order.journal[step.name] = Entry(step.name, record.status, number=len(order.journal), undo_due=record.undo_due)
    order.failure = refusal.__new__(refusal)
    plan = order.undo_plan()
    for entry in order.journal.values():
        entry.undo_due = False
    return Fall(step.name, refusal, plan, outcome_of(order, []), unclear=record.undo_due)


def _begun(saga: Saga, until: Step) -> OrderUnderWay:
    """An order all of whose steps before this one are done."""
    order = OrderUnderWay("", {}, fence=1)
    for number, step in enumerate(saga):
        if step is until:
            break
        (record,) = Work(step, [order]).records({order: {}}, begun=True)
        order.journal[step.name] = Entry(step.name, record.status, number=number, undo_due=record.undo_due)
    return order
