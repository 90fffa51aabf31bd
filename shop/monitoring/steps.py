"""Step metrics: how each step performed in a window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from shop.monitoring.buckets import Durations, durations
from shop.monitoring.commands import Counted, bucket_counts, share, that_ended, total


class CompensationMetrics(BaseModel):
    """The compensations of a step that ended in the window."""

    model_config = ConfigDict(frozen=True)

    commands: int
    done: int
    failed: int
    """Still due, and under manual review."""
    postponed: int
    """Postponed attempts (an external system was unavailable). Not included in the other counts."""
    retries: int
    duration: Durations


class StepMetrics(BaseModel):
    """The executions of a step that ended in the window."""

    model_config = ConfigDict(frozen=True)

    step: str
    commands: int
    succeeded: int
    refused: int
    """Business refusals."""
    failed: int
    success_rate: float | None
    error_rate: float | None
    """Share of failures, without refusals."""
    duration: Durations
    """From the first start to the end, including pauses between attempts."""
    retries: int
    """Attempts after the first."""
    failures: dict[str, int]
    """Counts by code, refusals and failures, the most frequent first."""
    postponed: int
    """Postponed attempts (an external system was unavailable). Not included in the other counts."""
    compensations: CompensationMetrics


def step_metrics(
    commands: Sequence[Counted], compensations: Sequence[Counted], names: Iterable[str] = ()
) -> list[StepMetrics]:
    """Returns one entry for each step that ended or was compensated; the steps in `names` come first, even
    if they did not run."""
    found = {each.step for each in (*commands, *compensations)}
    first = list(dict.fromkeys(names))
    steps = [*first, *sorted(found.difference(first))]
    return [
        _step(step, [c for c in commands if c.step == step], [c for c in compensations if c.step == step])
        for step in steps
    ]


def _step(step: str, commands: Sequence[Counted], compensations: Sequence[Counted]) -> StepMetrics:
    postponed, undo_postponed = (
        total(each for each in counted if each.postponed) for counted in (commands, compensations)
    )
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
        duration=durations(bucket_counts(commands)),
        retries=sum(each.retries for each in commands),
        failures=dict(failures.most_common()),
        postponed=postponed,
        compensations=CompensationMetrics(
            commands=total(compensations),
            done=done,
            failed=total(compensations) - done,
            postponed=undo_postponed,
            retries=sum(each.retries for each in compensations),
            duration=durations(bucket_counts(compensations)),
        ),
    )
