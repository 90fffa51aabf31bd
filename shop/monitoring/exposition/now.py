"""Current values for gauges: read on request, from indexes that contain only open orders and open cases."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, text

from shop.monitoring.business import BEING_REFUNDED
from shop.monitoring.config import monitoring
from shop.payments import charge

# Orders under manual review wait for a person, not for a worker.
_OPEN = text(
    """
    SELECT state, count(*) AS orders, count(*) FILTER (WHERE undoing) AS undoing, max(age) AS age,
        max(since_over) AS since_over
    FROM (
        SELECT CASE WHEN o.lease_id IS NULL
                        THEN CASE WHEN o.not_before > now() THEN 'postponed' ELSE 'waiting' END
                    WHEN l.until >= now() THEN 'held' ELSE 'left_behind' END AS state,
            o.failure IS NOT NULL AS undoing,
            CASE WHEN a.order_id IS NULL THEN extract(epoch FROM now() - o.submitted_at) END AS age,
            CASE WHEN o.lease_id IS NOT NULL AND l.until < now()
                 THEN extract(epoch FROM now() - l.until) END AS since_over
        FROM customer_order o LEFT JOIN lease l ON l.id = o.lease_id
            LEFT JOIN attention a ON a.order_id = o.id AND a.resolved_at IS NULL
        WHERE o.outcome IS NULL
    ) each GROUP BY state
    """
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
_OUTBOX = text(
    """
    SELECT CASE WHEN attempts = 0 OR error IS NULL THEN 'waiting' ELSE 'failing' END AS state,
        count(*) AS messages, max(extract(epoch FROM now() - created_at)) AS age
    FROM outbox WHERE sent_at IS NULL AND refused_at IS NULL GROUP BY 1
    UNION ALL
    SELECT 'refused', count(*), NULL FROM outbox
    WHERE sent_at IS NULL AND error IS NOT NULL AND refused_at IS NOT NULL
    """
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
    """Reads the current values."""

    def rows(statement: Any, **parameters: Any) -> list[Any]:
        return list(connection.execute(statement, parameters).all())

    return Now(
        open=rows(_OPEN),
        postponed=rows(_POSTPONED),
        review=rows(_REVIEW),
        refunds=rows(_REFUNDS, step=charge.STEP),
        outbox=rows(_OUTBOX),
        others=rows(_OTHERS)[0],
        processes=rows(_PROCESSES, every=monitoring().metrics_collection.collection_interval_seconds),
        inventory=rows(_INVENTORY)[0],
    )
