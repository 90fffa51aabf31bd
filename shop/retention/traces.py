"""Traces: what processes wrote of themselves, events of the gateway that are handled, alerts that are over. They go after a time."""

from __future__ import annotations

from sqlalchemy import Connection, TextClause, text

from saga.database import sync_engine
from saga.failpoints import failpoint
from shop.monitoring.config import Monitoring, monitoring
from shop.settings import settings

_TOLD_AGAIN_HOURS = 96
"""Gateways tell an event again for three days: so long at least it is known."""
_AT_ONCE = 5_000
_DELETING = failpoint("the commit of deleting traces")


def _delete(table: str, condition: str) -> TextClause:
    return text(
        f"DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE {condition} LIMIT {_AT_ONCE} FOR UPDATE SKIP LOCKED))"  # noqa: S608
    )


_OLD = "< now() - make_interval(secs => :seconds)"
_LONGER = f"< now() - make_interval(secs => greatest(:seconds, {_TOLD_AGAIN_HOURS * 3600}))"
# An alert not before everybody has heard that it is over.
_ALL_TOLD = "NOT EXISTS (SELECT 1 FROM alert_notice n WHERE n.alert_id = alert.id AND n.sent_at IS NULL)"
_TRACES = {
    "system_sample": _delete("system_sample", f"at {_OLD}"),
    "worker_process": _delete("worker_process", f"seen_at {_OLD}"),
    "payment_event": _delete("payment_event", f"handled_at {_LONGER}"),
    "alert": _delete("alert", f"over_at {_OLD} AND {_ALL_TOLD}"),
}


def purge_traces(config: Monitoring | None = None) -> dict[str, int]:
    """Deletes what is older than `event_monitoring.trace_retention_hours`, some thousand rows in each transaction: broken off, it goes on
    where it was. Returns the rows by table. Not from an event loop. Raises SQLAlchemyError if the database is away."""
    seconds = (config or monitoring()).event_monitoring.trace_retention_hours * 3600
    deleted = dict.fromkeys(_TRACES, 0)
    with sync_engine(settings().database_url).connect() as connection:
        for table, statement in _TRACES.items():
            while rows := _some(connection, statement, seconds):
                deleted[table] += rows
    return deleted


def _some(connection: Connection, statement: TextClause, seconds: float) -> int:
    with connection.begin() as running:
        rows = connection.execute(statement, {"seconds": seconds}).rowcount
        with _DELETING:
            running.commit()
    return rows
