"""Reads the journal once, for the metrics of events and of steps (here) and of the business.

Counts rows by step, status, remark and bucket, from an index that has all of them: a million in a third of a
second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, TextClause, text

from shop.monitoring.buckets import Durations, bucket_sql, durations
from shop.monitoring.error_codes import EXTERNAL, POSTPONED, REFUSALS, STEP_IS_POSTPONED, UNDO_IS_POSTPONED
from shop.monitoring.window import Window
from shop.values.frozen import Frozen

_UNDO_BUCKET = bucket_sql("undo_begun_at", "undo_ended_at")
_COMMANDS = text(
    "SELECT step, status, remark, cell, count(*) AS commands, sum(attempts - 1) AS retries FROM order_step "
    "WHERE ended_at IS NOT NULL AND ended_at >= :since AND ended_at < :until "
    "GROUP BY step, status, remark, cell"
)
_COMPENSATIONS = text(
    f"SELECT step, undo_status AS status, NULL AS remark, {_UNDO_BUCKET} AS cell, count(*) AS commands, "  # noqa: S608  (constants)
    "sum(undo_attempts - 1) AS retries FROM order_step "
    "WHERE undo_ended_at IS NOT NULL AND undo_ended_at >= :since AND undo_ended_at < :until "
    "AND undo_status IN ('done', 'failed') GROUP BY 1, 2, 4"
)
_POSTPONED = text(
    "SELECT s.step, s.status, s.remark, s.cell, count(*) AS commands, sum(s.attempts - 1) AS retries "  # noqa: S608  (constants)
    "FROM order_step s, customer_order o "
    f"WHERE {STEP_IS_POSTPONED} AND s.ended_at >= :since AND s.ended_at < :until GROUP BY 1, 2, 3, 4"
)
_UNDO_POSTPONED = text(
    f"SELECT s.step, s.undo_status AS status, NULL AS remark, {_UNDO_BUCKET} AS cell, count(*) AS commands, "  # noqa: S608  (constants)
    "sum(s.undo_attempts - 1) AS retries FROM order_step s, customer_order o "
    f"WHERE s.undo_ended_at >= :since AND s.undo_ended_at < :until AND {UNDO_IS_POSTPONED} GROUP BY 1, 2, 4"
)
_MESSAGES = text(
    "SELECT kind AS step, 'done' AS status, NULL AS remark, 0 AS cell, count(*) AS commands, "
    "sum(greatest(attempts - 1, 0)) AS retries "
    "FROM outbox WHERE sent_at IS NOT NULL AND sent_at >= :since AND sent_at < :until GROUP BY kind"
)


@dataclass(frozen=True, slots=True)
class Counted:
    """A count of what ended in the same way."""

    step: str
    status: str
    remark: str | None
    """The code of the failure, or the writer of a confirmation."""
    bucket: int
    commands: int
    retries: int

    @property
    def postponed(self) -> bool:
        """Whether the attempt is repeated when an external system is available again."""
        return self.status == POSTPONED

    @property
    def done(self) -> bool:
        return self.status == "done"

    @property
    def refused(self) -> bool:
        return self.status == "failed" and self.remark in REFUSALS


def read_commands(connection: Connection, window: Window) -> list[Counted]:
    """Steps that ended in the window, done or failed, and postponed attempts. A step that is repeated counts
    once, when it last ended."""
    return _read_apart(connection, window, _COMMANDS, _POSTPONED)


def read_compensations(connection: Connection, window: Window) -> list[Counted]:
    """Compensations that ended in the window, and postponed attempts; `step` is the one that was
    compensated."""
    return _read_apart(connection, window, _COMPENSATIONS, _UNDO_POSTPONED)


def read_messages(connection: Connection, window: Window) -> list[Counted]:
    """Mails and messages to the CRM that were sent in the window; `step` is their kind, and their bucket has
    no meaning."""
    return _read(connection, _MESSAGES, window)


def that_ended(counted: Iterable[Counted]) -> list[Counted]:
    """Returns the counts without the postponed attempts."""
    return [each for each in counted if not each.postponed]


def bucket_counts(counted: Iterable[Counted]) -> Counter[int]:
    found: Counter[int] = Counter()
    for each in counted:
        found[each.bucket] += each.commands
    return found


def total(counted: Iterable[Counted]) -> int:
    return sum(each.commands for each in counted)


def share(part: int, whole: int) -> float | None:
    """Returns the share; None if there is nothing to divide."""
    return part / whole if whole else None


def _read_apart(
    connection: Connection, window: Window, every: TextClause, postponed: TextClause
) -> list[Counted]:
    found = _read(connection, every, window)
    if all(each.done or (each.remark is not None and each.remark not in EXTERNAL) for each in found):
        return found  # the usual case: nothing is postponed
    apart = _read(connection, postponed, window, external=list(EXTERNAL))
    less = {(each.step, each.status, each.remark, each.bucket): each for each in apart}
    left = []
    for each in found:
        gone = less.get((each.step, each.status, each.remark, each.bucket))
        left.append(
            replace(each, commands=each.commands - gone.commands, retries=each.retries - gone.retries)
            if gone
            else each
        )
    return [each for each in left if each.commands > 0] + [replace(each, status=POSTPONED) for each in apart]


def _read(connection: Connection, statement: TextClause, window: Window, **more: object) -> list[Counted]:
    rows = connection.execute(statement, {**window.bounds, **more})
    return [
        Counted(row.step, row.status, row.remark, int(row.cell), int(row.commands), int(row.retries))
        for row in rows
    ]


MEASURED = 2000
"""Limits the payloads that are measured, the latest of the window."""
_SIZES = text(
    """
    SELECT count(*) AS measured, CAST(avg(size) AS float) AS mean, max(size) AS largest,
        percentile_disc(0.5) WITHIN GROUP (ORDER BY size) AS p50,
        percentile_disc(0.95) WITHIN GROUP (ORDER BY size) AS p95,
        percentile_disc(0.99) WITHIN GROUP (ORDER BY size) AS p99
    FROM (
        SELECT octet_length(coalesce(result, error)::text) AS size FROM order_step
        WHERE ended_at IS NOT NULL AND ended_at >= :since AND ended_at < :until
        ORDER BY ended_at DESC LIMIT :most
    ) latest WHERE size IS NOT NULL
    """
)


class PayloadSizes(Frozen):
    """Sizes of the results in the journal, in bytes of JSON, of the latest `MEASURED` steps of the window."""

    measured: int
    mean: float
    p50: int
    p95: int
    p99: int
    largest: int


class Results(Frozen):
    """The results of what ended in the window."""

    succeeded: int
    refused: int
    """Business refusals, such as a declined card: neither a success nor a failure."""
    failed: int
    success_rate: float | None
    """Share of successes; None if nothing ended."""
    error_rate: float | None
    """Share of failures, without refusals."""
    postponed: int
    """Postponed attempts (an external system was unavailable). Not included in the other counts."""


def _results(counted: Sequence[Counted]) -> dict[str, Any]:
    """Returns the fields of `Results`."""
    ended = that_ended(counted)
    every, succeeded = total(ended), total(each for each in ended if each.done)
    refused = total(each for each in ended if each.refused)
    failed = every - succeeded - refused
    rates = {"success_rate": share(succeeded, every), "error_rate": share(failed, every)}
    postponed = total(counted) - every
    return {"succeeded": succeeded, "refused": refused, "failed": failed, "postponed": postponed, **rates}


class EventMetrics(Results):
    """Counts of what ended in the window."""

    total_events: int
    steps: int
    compensations: int
    messages: int
    latency: Durations
    """Of steps and compensations, from the first start to the end, including pauses between attempts."""
    payload: PayloadSizes | None
    """None: not tracked, or nothing was found."""


def event_metrics(
    commands: Sequence[Counted],
    compensations: Sequence[Counted],
    messages: Sequence[Counted],
    payload: PayloadSizes | None,
) -> EventMetrics:
    steps, undone = that_ended(commands), that_ended(compensations)
    return EventMetrics(
        **_results([*commands, *compensations, *messages]),
        total_events=total([*steps, *undone, *messages]),
        steps=total(steps),
        compensations=total(undone),
        messages=total(messages),
        latency=durations(bucket_counts([*steps, *undone])),
        payload=payload,
    )


def payload_sizes(connection: Connection, window: Window) -> PayloadSizes | None:
    """Measures the latest payloads of the window."""
    row = connection.execute(_SIZES, {**window.bounds, "most": MEASURED}).mappings().one()
    return PayloadSizes(**row) if row["measured"] else None


class CompensationMetrics(Frozen):
    """The compensations of a step that ended in the window."""

    commands: int
    done: int
    failed: int
    """Still due, and under manual review."""
    postponed: int
    """Postponed attempts (an external system was unavailable). Not included in the other counts."""
    retries: int
    duration: Durations


class StepMetrics(Results):
    """The executions of a step that ended in the window."""

    step: str
    commands: int
    duration: Durations
    """From the first start to the end, including pauses between attempts."""
    retries: int
    """Attempts after the first."""
    failures: dict[str, int]
    """Counts by code, refusals and failures, the most frequent first."""
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
    ended, undone = that_ended(commands), that_ended(compensations)
    failures: Counter[str] = Counter()
    for each in ended:
        if not each.done:
            failures[each.remark or "unknown"] += each.commands
    done = total(each for each in undone if each.done)
    return StepMetrics(
        **_results(commands),
        step=step,
        commands=total(ended),
        duration=durations(bucket_counts(ended)),
        retries=sum(each.retries for each in ended),
        failures=dict(failures.most_common()),
        compensations=CompensationMetrics(
            commands=total(undone),
            done=done,
            failed=total(undone) - done,
            postponed=total(compensations) - total(undone),
            retries=sum(each.retries for each in undone),
            duration=durations(bucket_counts(undone)),
        ),
    )
