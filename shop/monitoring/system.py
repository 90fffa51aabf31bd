"""System metrics: resource use of processes and machines in a window, from the processes' samples."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import Connection, text

from shop.monitoring.window import Window
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
