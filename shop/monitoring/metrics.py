"""Metrics of any window, read from the journal and the tables beside it: no counters that a restart would
reset.

    read_metrics(parse("1h")).steps[0].success_rate

One read-only transaction, so that all numbers are of the same moment. A million journal rows take less than a
second.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

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
from shop.monitoring.system import SystemMetrics, system_metrics
from shop.monitoring.window import Window, last
from shop.settings import settings
from shop.values.frozen import Frozen

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
