"""Event metrics: the steps, compensations and messages that ended in a window: results and durations."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, text

from shop.monitoring.buckets import Durations, durations
from shop.monitoring.commands import Counted, bucket_counts, share, that_ended, total
from shop.monitoring.window import Window

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


class PayloadSizes(BaseModel):
    """Sizes of the results in the journal, in bytes of JSON, of the latest `MEASURED` steps of the window."""

    model_config = ConfigDict(frozen=True)

    measured: int
    mean: float
    p50: int
    p95: int
    p99: int
    largest: int


class EventMetrics(BaseModel):
    """Counts of what ended in the window."""

    model_config = ConfigDict(frozen=True)

    total_events: int
    steps: int
    compensations: int
    messages: int
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
    """Adds up the counts."""
    postponed = total(each for each in (*commands, *compensations) if each.postponed)
    commands, compensations = that_ended(commands), that_ended(compensations)
    everything = [*commands, *compensations, *messages]
    events = total(everything)
    succeeded = total(each for each in everything if each.done)
    refused = total(each for each in everything if each.refused)
    return EventMetrics(
        total_events=events,
        steps=total(commands),
        compensations=total(compensations),
        messages=total(messages),
        succeeded=succeeded,
        refused=refused,
        failed=events - succeeded - refused,
        success_rate=share(succeeded, events),
        error_rate=share(events - succeeded - refused, events),
        postponed=postponed,
        latency=durations(bucket_counts([*commands, *compensations])),
        payload=payload,
    )


def payload_sizes(connection: Connection, window: Window) -> PayloadSizes | None:
    """Measures the latest payloads of the window."""
    row = connection.execute(_SIZES, {**window.bounds, "most": MEASURED}).mappings().one()
    return PayloadSizes(**row) if row["measured"] else None
