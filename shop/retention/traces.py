"""Deletes old traces: samples of processes, handled payment events, and resolved alerts."""

from __future__ import annotations

from sqlalchemy import Connection, TextClause, text

from saga.database import sync_engine
from saga.failpoints import failpoint
from shop.alerts.notices import DUE_DAYS
from shop.monitoring.config import Monitoring, monitoring
from shop.settings import settings

_REDELIVERY_HOURS = 96
"""Minimum retention of payment events, in hours: gateways redeliver an event for three days."""
_BATCH_SIZE = 5_000
_DELETING = failpoint("the commit of deleting traces")


def _delete(table: str, condition: str) -> TextClause:
    return text(
        f"DELETE FROM {table} WHERE ctid = ANY(ARRAY("  # noqa: S608
        f"SELECT ctid FROM {table} WHERE {condition} LIMIT {_BATCH_SIZE} FOR UPDATE SKIP LOCKED))"
    )


_OLD = "< now() - make_interval(secs => :seconds)"
_OLD_EVENT = f"< now() - make_interval(secs => greatest(:seconds, {_REDELIVERY_HOURS * 3600}))"
# Keeps an alert until all its notices are sent, or too old to be.
_ALL_SENT = (
    "NOT EXISTS (SELECT 1 FROM alert_notice n WHERE n.alert_id = alert.id AND n.sent_at IS NULL "  # noqa: S608
    f"AND n.created_at > now() - interval '{DUE_DAYS} days')"
)
_TRACES = {
    "system_sample": _delete("system_sample", f"at {_OLD}"),
    "worker_process": _delete("worker_process", f"seen_at {_OLD}"),
    "payment_event": _delete("payment_event", f"handled_at {_OLD_EVENT}"),
    "alert": _delete("alert", f"over_at {_OLD} AND {_ALL_SENT}"),
}


def purge_traces(config: Monitoring | None = None) -> dict[str, int]:
    """Deletes traces older than `event_monitoring.trace_retention_hours`, some thousand rows per transaction,
    so that it can be interrupted. Returns the deleted rows by table. Must not be called in an event loop.
    Raises SQLAlchemyError if the database is unavailable."""
    seconds = (config or monitoring()).event_monitoring.trace_retention_hours * 3600
    deleted = dict.fromkeys(_TRACES, 0)
    with sync_engine(settings().database_url).connect() as connection:
        for table, statement in _TRACES.items():
            while rows := _delete_batch(connection, statement, seconds):
                deleted[table] += rows
    return deleted


def _delete_batch(connection: Connection, statement: TextClause, seconds: float) -> int:
    with connection.begin() as running:
        rows = connection.execute(statement, {"seconds": seconds}).rowcount
        with _DELETING:
            running.commit()
    return rows
