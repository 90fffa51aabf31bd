"""How each step performed in a window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from shop.monitoring.cells import Durations, durations
from shop.monitoring.commands import Counted, cells, share, that_ended, total


class CompensationMetrics(BaseModel):
    """The undos of a step that ended in the window."""

    model_config = ConfigDict(frozen=True)

    commands: int
    done: int
    failed: int
    """They are still due, and on the desk."""
    put_off: int
    """Tries that are made again once the gateway or inventory service is back: in no other number here."""
    retries: int
    duration: Durations


class StepMetrics(BaseModel):
    """The ends of a step in the window."""

    model_config = ConfigDict(frozen=True)

    step: str
    commands: int
    succeeded: int
    refused: int
    """A business "no"."""
    failed: int
    success_rate: float | None
    error_rate: float | None
    """Failed ones as a share of all, refusals apart."""
    duration: Durations
    """From the first beginning to the end, pauses between attempts included."""
    retries: int
    """Attempts after the first."""
    failures: dict[str, int]
    """How many had each code, refusals and faults, the most frequent first."""
    put_off: int
    """Tries that are made again once a gateway, inventory service or carrier is back: in no other number here."""
    compensations: CompensationMetrics


def step_metrics(commands: Sequence[Counted], compensations: Sequence[Counted], names: Iterable[str] = ()) -> list[StepMetrics]:
    """One for each step that ended or was undone, and for those named, which come first."""
    found = {each.step for each in (*commands, *compensations)}
    first = list(dict.fromkeys(names))
    steps = [*first, *sorted(found.difference(first))]
    return [_step(step, [c for c in commands if c.step == step], [c for c in compensations if c.step == step]) for step in steps]


def _step(step: str, commands: Sequence[Counted], compensations: Sequence[Counted]) -> StepMetrics:
    put_off, undo_put_off = (total(each for each in counted if each.put_off) for counted in (commands, compensations))
    commands, compensations = that_ended(commands), that_ended(compensations)
    every, succeeded = total(commands), total(each for each in commands if each.done)
    refused = total(each for each in commands if each.refused)
    failures: Counter[str] = Counter()
    for each in commands:
        if not each.done:
            failures[each.remark or "unknown"] += each.commands
    done = total(each for each in compensations if each.done)
    return StepMetrics(
        step=step,
        commands=every,
        succeeded=succeeded,
        refused=refused,
        failed=every - succeeded - refused,
        success_rate=share(succeeded, every),
        error_rate=share(every - succeeded - refused, every),
        duration=durations(cells(commands)),
        retries=sum(each.retries for each in commands),
        failures=dict(failures.most_common()),
        put_off=put_off,
        compensations=CompensationMetrics(
            commands=total(compensations),
            done=done,
            failed=total(compensations) - done,
            put_off=undo_put_off,
            retries=sum(each.retries for each in compensations),
            duration=durations(cells(compensations)),
        ),
    )
