"""Totals for counters and histograms, kept in the database: they never decrease, survive restarts, and are
the same in every process.

A counter must never decrease, or Prometheus takes its whole value as new. Rows of the journal do change: a
step that is retried is no longer failed, an order that is reopened has no outcome. So each reading counts
what ended in the last minutes, and adds what exceeds the count of the reading before; what ended earlier
stays in the total. Each try of an order counts as an outcome. The cost of a reading depends on those minutes,
not on the age of the shop. One process reads at a time, at most once per `EVERY_SECONDS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from shop.monitoring.buckets import bucket_sql
from shop.monitoring.error_codes import REFUSALS
from shop.monitoring.postponed import EXTERNAL, POSTPONED, STEP_IS_POSTPONED, UNDO_IS_POSTPONED

_UNDO_BUCKET, _SENT_BUCKET = bucket_sql("undo_begun_at", "undo_ended_at"), bucket_sql("created_at", "sent_at")
_TRY_BUCKET = bucket_sql("begun_at", "finished_at")
EVERY_SECONDS = 2
_RECOUNTED_SECONDS = 180
"""Limits the delay of a row in seconds: it has the time when the step ended, and is written with the next
step."""
_MOVES_AFTER = 60
_FAILED_SECONDS = 10
"""A failure that is retried within this many seconds counts as a retry only. A refusal counts at once."""

# One statement, hence one snapshot: what is added to the totals
# is exactly what the next reading takes as seen.
_RAW = f"""
    SELECT 'step' AS kind, step AS name,
        CASE WHEN status = 'failed' AND EXISTS (SELECT 1 FROM customer_order o WHERE {STEP_IS_POSTPONED})
             THEN '{POSTPONED}' ELSE status END AS result,
        coalesce(remark, '') AS code, cell, ended_at AS at, 1 AS n FROM order_step s
        WHERE ended_at >= CAST(:since AS timestamptz)
            AND (status <> 'failed' OR remark = ANY(CAST(:refusals AS text[]))
                OR ended_at < now() - make_interval(secs => {_FAILED_SECONDS}))
    UNION ALL SELECT 'step retry', s.step, '', '', 0, s.ended_at, s.attempts - 1 FROM order_step s
        WHERE s.ended_at >= CAST(:since AS timestamptz) AND s.attempts > 1 AND (s.status = 'done' OR EXISTS (
            SELECT 1 FROM customer_order o WHERE o.id = s.order_id AND o.failure IS NOT NULL))
    UNION ALL SELECT 'undo', step,
        CASE WHEN undo_status = 'failed'
                 AND EXISTS (SELECT 1 FROM customer_order o WHERE {UNDO_IS_POSTPONED})
             THEN '{POSTPONED}' ELSE undo_status END,
        '', {_UNDO_BUCKET}, undo_ended_at, 1 FROM order_step s
        WHERE undo_ended_at >= CAST(:since AS timestamptz) AND (undo_status = 'done'
            OR undo_status = 'failed' AND undo_ended_at < now() - make_interval(secs => {_FAILED_SECONDS}))
    UNION ALL SELECT 'undo retry', step, '', '', 0, undo_ended_at, undo_attempts - 1 FROM order_step
        WHERE undo_ended_at >= CAST(:since AS timestamptz) AND undo_attempts > 1 AND undo_status = 'done'
    UNION ALL SELECT 'message', kind, '', '', {_SENT_BUCKET}, sent_at, 1 FROM outbox
        WHERE sent_at >= CAST(:since AS timestamptz)
    UNION ALL SELECT 'message retry', kind, '', '', 0, sent_at, attempts - 1 FROM outbox
        WHERE sent_at >= CAST(:since AS timestamptz) AND attempts > 1
    UNION ALL SELECT 'order', '', outcome, '', cell, finished_at, 1 FROM customer_order
        WHERE finished_at >= CAST(:since AS timestamptz) AND outcome <> 'needs_attention'
    UNION ALL SELECT 'order', '', outcome, '', {_TRY_BUCKET}, finished_at, 1 FROM order_try
        WHERE finished_at >= CAST(:since AS timestamptz)
    UNION ALL SELECT 'order', '', 'needs_attention', '', 0, since, 1 FROM attention
        WHERE since >= CAST(:since AS timestamptz)
"""  # noqa: S608  (constants)
_ADD = text(
    f"""
    WITH raw AS MATERIALIZED (
        SELECT kind, name, result, code, cell, sum(n) AS n,
            coalesce(sum(n) FILTER (WHERE at >= CAST(:next AS timestamptz)), 0) AS later
        FROM ({_RAW}) each GROUP BY kind, name, result, code, cell
    ), gone AS (
        UPDATE metric_total t SET seen = 0
        WHERE t.seen <> 0 AND NOT EXISTS (SELECT 1 FROM raw r
            WHERE (r.kind, r.name, r.result, r.code, r.cell) = (t.kind, t.name, t.result, t.code, t.cell))
    ), before AS MATERIALIZED (SELECT kind, name, result, code, cell, seen FROM metric_total)
    INSERT INTO metric_total AS t (kind, name, result, code, cell, total, seen)
    SELECT r.kind, r.name, r.result, r.code, r.cell, greatest(r.n - coalesce(b.seen, 0), 0), r.later
    FROM raw r LEFT JOIN before b USING (kind, name, result, code, cell)
    WHERE r.n <> coalesce(b.seen, 0) OR r.later <> coalesce(b.seen, 0)
    ON CONFLICT (kind, name, result, code, cell) DO UPDATE
    SET total = t.total + excluded.total, seen = excluded.seen
    """  # noqa: S608
)
_LOCK = text(
    "SELECT counted_from, read_at IS NULL OR read_at < now() - make_interval(secs => :every) AS due, "
    "CASE WHEN counted_from IS NULL OR counted_from < now() - make_interval(secs => :again + :moves) "
    "THEN now() - make_interval(secs => :again) ELSE counted_from END AS next "
    "FROM metric_reading WHERE id = 1 FOR UPDATE SKIP LOCKED"
)
_TAKEN = text("UPDATE metric_reading SET read_at = now(), counted_from = :next WHERE id = 1")
_ALL = text("SELECT kind, name, result, code, cell, CAST(total AS bigint) AS total FROM metric_total")


@dataclass(frozen=True, slots=True)
class Total:
    """The count of one kind of result, since the first order."""

    kind: str
    name: str
    result: str
    code: str
    bucket: int
    total: int


def count_new(connection: Connection, *, every: float = EVERY_SECONDS) -> None:
    """Updates the totals, in the caller's transaction, unless another process is doing so or just did."""
    asked = {"every": every, "again": _RECOUNTED_SECONDS, "moves": _MOVES_AFTER}
    turn = connection.execute(_LOCK, asked).first()
    if turn is None or not turn.due:
        return
    since: datetime | str = "-infinity" if turn.counted_from is None else turn.counted_from
    connection.execute(
        _ADD, {"since": since, "next": turn.next, "refusals": sorted(REFUSALS), "external": list(EXTERNAL)}
    )
    connection.execute(_TAKEN, {"next": turn.next})


def read_totals(connection: Connection) -> list[Total]:
    """Reads the totals as last updated."""
    return [Total(*row) for row in connection.execute(_ALL)]
