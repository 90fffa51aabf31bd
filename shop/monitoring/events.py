"""Event metrics: what ended in a window (steps, compensations, messages), how well and how fast."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, text

from shop.monitoring.cells import Durations, durations
from shop.monitoring.commands import Counted, cells, share, that_ended, total
from shop.monitoring.window import Window

MEASURED = 2000
"""So many payloads are measured: the latest of the window."""
_SIZES = text(
    """
    SELECT count(*) AS measured, CAST(avg(size) AS float) AS mean, max(size) AS largest,
        percentile_disc(0.5) WITHIN GROUP (ORDER BY size) AS p50, percentile_disc(0.95) WITHIN GROUP (ORDER BY size) AS p95,
        percentile_disc(0.99) WITHIN GROUP (ORDER BY size) AS p99
    FROM (
        SELECT octet_length(coalesce(result, error)::text) AS size FROM order_step
        WHERE ended_at IS NOT NULL AND ended_at >= :since AND ended_at < :until ORDER BY ended_at DESC LIMIT :most
    ) latest WHERE size IS NOT NULL
    """
)


class PayloadSizes(BaseModel):
    """What steps left in the journal, in bytes of JSON: of the latest `MEASURED` of the window."""

    model_config = ConfigDict(frozen=True)

    measured: int
    mean: float
    p50: int
    p95: int
    p99: int
    largest: int


class EventMetrics(BaseModel):
    """What ended in the window."""

    model_config = ConfigDict(frozen=True)

    total_events: int
    steps: int
    compensations: int
    messages: int
    succeeded: int
    refused: int
    """A business "no", such as a declined card: not a success, and no fault."""
    failed: int
    success_rate: float | None
    """Succeeded ones as a share of all; None if there were none."""
    error_rate: float | None
    """Failed ones as a share of all, refusals apart."""
    put_off: int
    """Tries that are made again once a gateway, inventory service or carrier is back: in no other number here."""
    latency: Durations
    """Of steps and compensations, from the first beginning to the end, pauses between attempts included."""
    payload: PayloadSizes | None
    """None: not tracked, or there was nothing."""


def event_metrics(
    commands: Sequence[Counted], compensations: Sequence[Counted], messages: Sequence[Counted], payload: PayloadSizes | None
) -> EventMetrics:
    """Sums up."""
    put_off = total(each for each in (*commands, *compensations) if each.put_off)
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
        put_off=put_off,
        latency=durations(cells([*commands, *compensations])),
        payload=payload,
    )


def payload_sizes(connection: Connection, window: Window) -> PayloadSizes | None:
    """Measures."""
    row = connection.execute(_SIZES, {**window.bounds, "most": MEASURED}).mappings().one()
    return PayloadSizes(**row) if row["measured"] else None
