"""Reads the metrics from the database in a thread of its own, and caches them for a few seconds.

However many requests come, the database is read once per `KEPT_SECONDS`. A request waits at most
`PATIENCE_SECONDS` for a database that does not answer, and then reports that.

Gauges are read from indexes that contain only open orders and open cases. Totals for counters and histograms
are kept in the database: they survive restarts, and are the same in every process. A counter must never
decrease, or Prometheus takes its whole value as new. Rows of the journal do change: a step that is retried is
no longer failed, an order that is reopened has no outcome. So each reading counts what ended in the last
minutes, and adds what exceeds the count of the reading before; what ended earlier stays in the total. Each
try of an order counts as an outcome. The cost of a reading depends on those minutes, not on the age of the
shop. One process reads at a time, at most once per `EVERY_SECONDS`.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, NullPool, text

from saga import BLOCKED_SECONDS
from saga.database import new_engine
from shop.monitoring.buckets import bucket_sql
from shop.monitoring.business import BEING_REFUNDED
from shop.monitoring.config import monitoring
from shop.monitoring.error_codes import (
    CUSTOMER,
    EXTERNAL,
    POSTPONED,
    REFUSALS,
    STEP_IS_POSTPONED,
    UNDO_IS_POSTPONED,
)
from shop.notifications.outbox import SHOWN_DAYS
from shop.payments import charge
from shop.settings import Settings

# Orders under manual review wait for a person, and others for their customer's money, not for a worker.
_OPEN = text(
    f"""
    SELECT state, count(*) AS orders, count(*) FILTER (WHERE undoing) AS undoing, max(age) AS age,
        max(since_over) AS since_over
    FROM (
        SELECT CASE WHEN o.lease_id IS NULL
                        THEN CASE WHEN o.not_before > now() THEN 'postponed' ELSE 'waiting' END
                    WHEN l.until >= now() THEN 'held' ELSE 'left_behind' END AS state,
            o.failure IS NOT NULL AS undoing,
            CASE WHEN a.order_id IS NULL
                    AND (o.waits_for = ANY(CAST(:customer AS text[]))
                        AND o.not_before > now() - interval '{BLOCKED_SECONDS} s') IS NOT TRUE
                 THEN extract(epoch FROM now() - o.submitted_at) END AS age,
            CASE WHEN o.lease_id IS NOT NULL AND l.until < now()
                 THEN extract(epoch FROM now() - l.until) END AS since_over
        FROM customer_order o LEFT JOIN lease l ON l.id = o.lease_id
            LEFT JOIN attention a ON a.order_id = o.id AND a.resolved_at IS NULL
        WHERE o.outcome IS NULL
    ) each GROUP BY state
    """  # noqa: S608  (a constant)
)
_POSTPONED = text(
    """
    SELECT waits_for AS code, count(*) AS orders FROM (
        SELECT waits_for FROM customer_order WHERE outcome IS NULL AND lease_id IS NULL
            AND (not_before > now() OR waits_for = 'unknown_step') LIMIT 100000
    ) each GROUP BY waits_for
    """
)
_REVIEW = text(
    "SELECT o.currency, a.step, count(*) AS orders, sum(o.amount_at_risk) AS at_risk FROM attention a "
    "JOIN customer_order o ON o.id = a.order_id WHERE a.resolved_at IS NULL GROUP BY 1, 2"
)
_REFUNDS = text(
    "SELECT o.currency, count(*) AS orders, sum(o.amount_at_risk) AS amount "  # noqa: S608  (constants)
    "FROM attention a JOIN customer_order o ON o.id = a.order_id "
    f"WHERE a.resolved_at IS NULL AND o.amount_at_risk > 0 GROUP BY 1 UNION ALL {BEING_REFUNDED}"
)
# Messages that were refused long ago are shown nowhere any more: they would alert for ever.
_OUTBOX = text(
    f"""
    SELECT CASE WHEN attempts = 0 OR error IS NULL THEN 'waiting' ELSE 'failing' END AS state,
        count(*) AS messages, max(extract(epoch FROM now() - created_at)) AS age
    FROM outbox WHERE sent_at IS NULL AND refused_at IS NULL GROUP BY 1
    UNION ALL
    SELECT 'refused', count(*), NULL FROM outbox
    WHERE sent_at IS NULL AND error IS NOT NULL AND refused_at IS NOT NULL
        AND created_at > now() - interval '{SHOWN_DAYS} days'
    """  # noqa: S608  (a constant)
)
_OTHERS = text(
    "SELECT (SELECT count(*) FROM dispute WHERE closed_at IS NULL) AS disputes, "
    "(SELECT count(*) FROM payment_event WHERE handled_at IS NULL) AS payment_events, "
    "(SELECT count(*) FROM lease WHERE until > now()) AS leases"
)
_PROCESSES = text(
    """
    SELECT p.kind,
        CASE WHEN p.seen_at < now() - make_interval(secs => 3 * p.every_seconds)
             THEN 'lost' ELSE 'alive' END AS state,
        count(*) AS processes, sum(s.process_cpu_percent) / 100 AS cpu,
        sum(s.process_memory_mb) * 1048576 AS memory,
        sum(s.connections_in_use) AS in_use, sum(s.connections_open) AS open, sum(s.connections_most) AS most
    FROM worker_process p LEFT JOIN LATERAL (
        SELECT * FROM system_sample
        WHERE process_id = p.id
          AND at > now() - make_interval(secs => 3 * greatest(p.every_seconds, :every) + 60)
        ORDER BY at DESC LIMIT 1
    ) s ON true
    WHERE p.ended_at IS NULL AND p.seen_at > now() - interval '1 hour' GROUP BY 1, 2
    """
)
_INVENTORY = text(
    "SELECT count(*) AS products, count(*) FILTER (WHERE on_hand = reserved) AS sold_out, "
    "coalesce(sum(on_hand), 0) AS on_hand, coalesce(sum(reserved), 0) AS reserved FROM product"
)


@dataclass
class Now:
    """The rows read, by subject."""

    open: list[Any] = field(default_factory=list)
    postponed: list[Any] = field(default_factory=list)
    review: list[Any] = field(default_factory=list)
    refunds: list[Any] = field(default_factory=list)
    outbox: list[Any] = field(default_factory=list)
    others: Any = None
    processes: list[Any] = field(default_factory=list)
    inventory: Any = None


def read_now(connection: Connection) -> Now:
    def rows(statement: Any, **parameters: Any) -> list[Any]:
        return list(connection.execute(statement, parameters).all())

    return Now(
        open=rows(_OPEN, customer=list(CUSTOMER)),
        postponed=rows(_POSTPONED),
        review=rows(_REVIEW),
        refunds=rows(_REFUNDS, step=charge.STEP),
        outbox=rows(_OUTBOX),
        others=rows(_OTHERS)[0],
        processes=rows(_PROCESSES, every=monitoring().metrics_collection.collection_interval_seconds),
        inventory=rows(_INVENTORY)[0],
    )


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


log = logging.getLogger(__name__)
KEPT_SECONDS = 5.0
PATIENCE_SECONDS = 4.0
_STALE_SECONDS = 60.0
"""Limits the age of values in seconds, while a reading of a large journal takes long."""
_OPTIONS = (
    "-c statement_timeout=60000 -c lock_timeout=2000 -c idle_in_transaction_session_timeout=30000 -c jit=off"
)


@dataclass(frozen=True, slots=True)
class Read:
    at: float
    """Time of `time.monotonic()`."""
    seconds: float
    """Duration."""
    totals: list[Total]
    now: Now


class Reading:
    """Reads one database, for any number of threads."""

    def __init__(
        self,
        database_url: str,
        *,
        kept_seconds: float = KEPT_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._url = Settings(DATABASE_URL=database_url).database_url
        self._kept, self._patience = kept_seconds, patience_seconds
        self._lock = threading.Lock()
        self._reader: threading.Thread | None = None
        self._last: Read | None = None
        self._failed_at: float | None = None
        self._reported = False

    def latest(self) -> Read | None:
        """Returns a reading from the cache, at most a minute old if reading takes long. None: the database
        does not answer."""
        now = time.monotonic()
        with self._lock:
            if self._last is not None and now - self._last.at < self._kept:
                return self._last
            if self._reader is None and self._failed_at is not None and now - self._failed_at < self._kept:
                return None
            if self._reader is None:
                self._reader = threading.Thread(target=self._read, name="metrics", daemon=True)
                self._reader.start()
            reader = self._reader
        reader.join(self._patience)
        with self._lock:
            fresh = self._last is not None and time.monotonic() - self._last.at < _STALE_SECONDS
            return self._last if fresh and self._failed_at is None else None

    def _read(self) -> None:
        began = time.monotonic()
        found: Read | None = None
        try:
            engine = new_engine(self._url, poolclass=NullPool, arguments={"options": _OPTIONS})
            with engine.begin() as connection:
                count_new(connection)
            with (
                engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection,
                connection.begin(),
            ):
                connection.execute(_READ_ONLY)
                totals, now = read_totals(connection), read_now(connection)
            found = Read(time.monotonic(), time.monotonic() - began, totals, now)
        except Exception as error:  # noqa: BLE001  (reported as order_saga_database_up 0)
            if not self._reported:
                log.warning(
                    "metrics cannot be read from the database (%s); will retry",
                    type(getattr(error, "orig", error)).__name__,
                )
            self._reported = True
        with self._lock:
            self._reader = None
            self._failed_at = None if found else time.monotonic()
            if found:
                self._last, self._reported = found, False


_READ_ONLY = text("SET TRANSACTION READ ONLY")
