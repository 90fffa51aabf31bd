"""Metrics of any window, read from the journal and the tables beside it: no counters that a restart would
reset.

    read_metrics(parse("1h")).steps[0].success_rate

One read-only transaction, so that all numbers are of the same moment. A million journal rows take less than a
second.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import Connection, text

from saga.database import sync_engine
from shop.monitoring.buckets import LARGEST_ERROR
from shop.monitoring.business import BusinessMetrics, business_metrics
from shop.monitoring.commands import (
    EventMetrics,
    StepMetrics,
    event_metrics,
    payload_sizes,
    read_commands,
    read_compensations,
    read_messages,
    step_metrics,
)
from shop.monitoring.config import Monitoring, monitoring
from shop.monitoring.window import Window, last
from shop.settings import settings
from shop.values.frozen import Frozen

_MISSED_HEARTBEATS = 3
"""Number of missed heartbeats after which a process counts as lost."""
_MOST = 200
_PROCESSES = text(
    f"""
    SELECT p.id, p.kind, p.host, p.pid, p.flow_run_id, p.started_at, p.seen_at,
        CASE WHEN p.ended_at IS NOT NULL THEN 'ended'
            WHEN p.seen_at < now() - make_interval(secs => {_MISSED_HEARTBEATS} * p.every_seconds) THEN 'lost'
            ELSE 'alive' END AS state,
        count(s.id) AS samples,
        avg(s.process_cpu_percent) AS mean_cpu_percent, max(s.process_cpu_percent) AS most_cpu_percent,
        avg(s.process_memory_mb) AS mean_memory_mb, max(s.process_memory_mb) AS most_memory_mb,
        CAST(avg(s.connections_in_use) AS float) AS mean_connections,
        max(s.connections_in_use) AS most_connections, max(s.connections_most) AS connections_limit
    FROM worker_process p
        LEFT JOIN system_sample s ON s.process_id = p.id AND s.at >= :since AND s.at < :until
    WHERE p.seen_at >= :since AND p.started_at < :until
    GROUP BY p.id ORDER BY p.ended_at IS NOT NULL, p.seen_at DESC LIMIT {_MOST}
    """  # noqa: S608  (constants)
)
_MACHINES = text(
    """
    SELECT p.host, count(*) AS samples,
        avg(s.cpu_percent) AS mean_cpu_percent, max(s.cpu_percent) AS most_cpu_percent,
        avg(s.memory_percent) AS mean_memory_percent, max(s.memory_percent) AS most_memory_percent,
        max(s.disk_percent) AS disk_percent
    FROM system_sample s JOIN worker_process p ON p.id = s.process_id
    WHERE s.at >= :since AND s.at < :until AND s.cpu_percent IS NOT NULL GROUP BY p.host ORDER BY p.host
    """
)
_LEASES = text("SELECT count(*) FROM lease WHERE until > now()")


class ProcessMetrics(Frozen):
    """A process that ran in the window. None where it has no samples."""

    id: UUID
    kind: str
    host: str
    pid: int
    flow_run_id: str | None
    started_at: datetime
    seen_at: datetime
    state: Literal["alive", "ended", "lost"]
    """`lost`: its heartbeat stopped, and it never reported its end."""
    samples: int
    mean_cpu_percent: float | None
    """Of one core."""
    most_cpu_percent: float | None
    mean_memory_mb: float | None
    most_memory_mb: float | None
    mean_connections: float | None
    """Database connections in use."""
    most_connections: int | None
    connections_limit: int | None


class MachineMetrics(Frozen):
    """A machine that runs such processes."""

    host: str
    samples: int
    mean_cpu_percent: float
    """Of all cores."""
    most_cpu_percent: float
    mean_memory_percent: float
    most_memory_percent: float
    disk_percent: float
    """The maximum for the disk of `VAR_DIR`."""


class SystemMetrics(Frozen):
    processes: list[ProcessMetrics]
    machines: list[MachineMetrics]
    leases: int
    """Leases that are valid now."""


def system_metrics(connection: Connection, window: Window) -> SystemMetrics:
    return SystemMetrics(
        processes=[ProcessMetrics(**row) for row in connection.execute(_PROCESSES, window.bounds).mappings()],
        machines=[MachineMetrics(**row) for row in connection.execute(_MACHINES, window.bounds).mappings()],
        leases=connection.execute(_LEASES).scalar_one(),
    )


# One pass over many rows: parallel workers halve the time; JIT compilation would cost more than it saves.
_MODE = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
_PLANS = text(
    "SELECT set_config(name, value, true) "
    "FROM (VALUES ('jit', 'off'), ('parallel_setup_cost', '0'), ('parallel_tuple_cost', '0'), "
    "('max_parallel_workers_per_gather', '4'), ('work_mem', '32MB')) AS mode(name, value)"
)
_NOW = text("SELECT now()")
# The saga is not known here; the order that completed last ran all of its steps.
_SEQUENCE = text(
    "SELECT step FROM order_step WHERE order_id = ("
    "SELECT id FROM customer_order WHERE finished_at IS NOT NULL AND outcome = 'completed' "
    "ORDER BY finished_at DESC LIMIT 1) ORDER BY number"
)


class Metrics(Frozen):
    """All metrics. None: turned off by the configuration."""

    window: Window
    read_at: datetime
    """Time of the database's clock."""
    percentiles_within: float = LARGEST_ERROR
    """Limits the relative error of means and percentiles."""
    events: EventMetrics | None
    steps: list[StepMetrics] | None
    business: BusinessMetrics
    system: SystemMetrics | None


def default_window(config: Monitoring | None = None) -> Window:
    """Returns the last `performance_window_minutes`."""
    return last(minutes=(config or monitoring()).worker_monitoring.performance_window_minutes)


def read_metrics(
    window: Window | None = None, *, database_url: str | None = None, steps: Iterable[str] = ()
) -> Metrics:
    """Reads the metrics of a window (None: the configured one). `steps`: the saga's steps in order, listed
    even if they did not run; without it, the steps that ran are listed, in the order of the last completed
    order.

    Blocks: not for an event loop. Raises MonitoringConfigError, and SQLAlchemyError if the database is
    unavailable.
    """
    url = settings().database_url if database_url is None else database_url
    with sync_engine(url).connect() as connection, connection.begin():
        return read(connection, window or default_window(), monitoring(), steps)


def read(connection: Connection, window: Window, config: Monitoring, steps: Iterable[str] = ()) -> Metrics:
    """Reads the metrics in the caller's transaction, which must be new."""
    connection.execute(_MODE)
    connection.execute(_PLANS)
    now = connection.execute(_NOW).scalar_one()
    window = window.at(now)
    commands, compensations = read_commands(connection, window), read_compensations(connection, window)
    found = {each.step for each in (*commands, *compensations)}
    names = list(steps) or [step for step in connection.execute(_SEQUENCE).scalars() if step in found]
    events = None
    if config.event_monitoring.enabled:
        payload = payload_sizes(connection, window) if config.event_monitoring.track_payload_size else None
        events = event_metrics(commands, compensations, read_messages(connection, window), payload)
    return Metrics(
        window=window,
        read_at=now,
        events=events,
        steps=step_metrics(commands, compensations, names) if config.worker_monitoring.enabled else None,
        business=business_metrics(connection, window, commands, compensations),
        system=system_metrics(connection, window) if config.metrics_collection.enabled else None,
    )
