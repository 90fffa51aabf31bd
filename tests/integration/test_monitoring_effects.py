"""Each key of monitoring.yaml does what it says:
values that are not the defaults, in a file that `MONITORING_CONFIG` names."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shop.alerts.watch import watch
from shop.monitoring import log_lines
from shop.monitoring.metrics import Metrics, default_window, read_metrics
from shop.monitoring.sampler import sampling, wait_for_samplers
from shop.monitoring.window import last
from shop.retention.traces import purge_traces
from shop.settings import settings
from tests.integration.world import World
from tests.waiting import until

Configure = Callable[[str], None]


@pytest.fixture
def tables(database_url: str, shop_environment: Path) -> World:
    """A shop's tables and folder; there is no gateway."""
    return World(database_url, "", shop_environment)


@pytest.fixture
def configure(tables: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Names a file with this text. Another one each time: a file is read once."""
    numbers = itertools.count()

    def write(text: str) -> None:
        path = tables.var_dir / f"monitoring-{next(numbers)}.yaml"
        path.write_text(text)
        monkeypatch.setenv("MONITORING_CONFIG", str(path))
        settings.cache_clear()

    yield write
    wait_for_samplers()
    monkeypatch.undo()
    settings.cache_clear()
    log_lines.configure()


def ended_steps(tables: World, *, done: int, failed: int = 0, minutes_ago: float = 1) -> None:
    tables.sql(
        "INSERT INTO order_step (order_id, step, status, begun_at, ended_at, result, error) "
        "SELECT gen_random_uuid()::text, 'process_payment', "
        "CASE WHEN i <= :failed THEN 'failed' ELSE 'done' END, t, t, "
        """CASE WHEN i > :failed THEN '{"is": "done"}'::jsonb END, """
        """CASE WHEN i <= :failed THEN '{"code": "step_broken"}'::jsonb END """
        "FROM generate_series(1, :all) AS i, (SELECT now() - make_interval(secs => :ago) AS t) AS time",
        failed=failed,
        all=done + failed,
        ago=minutes_ago * 60.0,
    )


def payments(metrics: Metrics) -> int:
    return sum(step.commands for step in metrics.steps or [] if step.step == "process_payment")


@pytest.mark.parametrize(("key", "files"), [("max_file_size_mb: 0.01", 3), ("max_file_size_mb: 0.1", 1)])
def test_max_file_size_mb(tables: World, configure: Configure, key: str, files: int) -> None:
    configure(f"logging: {{default_logger: file, {key}}}")
    log_lines.configure()
    for _ in range(60):
        logging.getLogger("shop.tests").warning("x" * 300)
    written = list((tables.var_dir / "logs").glob("shop.*.jsonl*"))
    assert len(written) == files
    assert sum(len(path.read_bytes().splitlines()) for path in written) == 60
    assert all(path.stat().st_size <= 10_000 for path in written) == (files > 1)


@pytest.mark.parametrize("tracked", [True, False])
def test_track_payload_size(tables: World, configure: Configure, tracked: bool) -> None:
    configure(f"event_monitoring: {{track_payload_size: {str(tracked).lower()}}}")
    ended_steps(tables, done=3)
    events = read_metrics().events
    assert events is not None
    assert events.total_events == 3
    assert (events.payload.measured if events.payload else None) == (3 if tracked else None)


@pytest.mark.parametrize(("hours", "left"), [(1, 1), (3, 2), (5, 3)])
def test_trace_retention_hours(tables: World, configure: Configure, hours: int, left: int) -> None:
    for ago in (0, 2, 4):
        tables.sql(
            "WITH p AS (INSERT INTO worker_process (id, kind, host, pid, every_seconds, seen_at) "
            "VALUES (gen_random_uuid(), 'old', 'h', 1, 15, now() - make_interval(hours => :ago)) "
            "RETURNING id) INSERT INTO system_sample "
            "(process_id, at, connections_in_use, connections_open, connections_most) "
            "SELECT id, now() - make_interval(hours => :ago), 0, 0, 1 FROM p",
            ago=ago,
        )
    configure(f"event_monitoring: {{trace_retention_hours: {hours}}}")
    deleted = purge_traces()
    assert (deleted["system_sample"], deleted["worker_process"]) == (3 - left, 3 - left)
    assert tables.sql("SELECT count(*) FROM system_sample")[0][0] == left


async def test_trace_retention_hours_where_nothing_else_purges(tables: World, configure: Configure) -> None:
    tables.sql(
        "INSERT INTO worker_process (id, kind, host, pid, every_seconds, seen_at) "
        "SELECT gen_random_uuid(), 'old', 'h', hours, 15, now() - make_interval(hours => hours) "
        "FROM unnest(ARRAY[1, 3]) AS hours"
    )
    configure("event_monitoring: {trace_retention_hours: 2}")

    async def tidied() -> bool:
        return len(await asyncio.to_thread(tables.sql, "SELECT 1 FROM worker_process WHERE kind = 'old'")) < 2

    with sampling("test"):
        await until(tidied, 20, "the old one to go")
    assert tables.sql("SELECT pid FROM worker_process WHERE kind = 'old'") == [(1,)]


def test_performance_window_minutes(tables: World, configure: Configure) -> None:
    for minutes in (5, 20, 40):
        ended_steps(tables, done=1, minutes_ago=minutes)
    for window, counted in ((10, 1), (30, 2), (60, 3)):
        configure(f"worker_monitoring: {{performance_window_minutes: {window}}}")
        assert default_window().name == f"the last {window} minutes"
        assert payments(read_metrics()) == counted


def test_error_rate_threshold_and_window_of_alerts(tables: World, configure: Configure) -> None:
    ended_steps(tables, done=27, failed=3, minutes_ago=20)
    for key, alerts in (
        ("error_rate_threshold: 0.2", []),
        ("error_rate_threshold: 0.09, performance_window_minutes: 10", []),
        ("error_rate_threshold: 0.09", ["all orders", "process_payment"]),
        ("error_rate_threshold: 0.2", []),
    ):
        configure(f"worker_monitoring: {{{key}}}")
        tables.sql("UPDATE alert_watch SET judged_at = NULL")
        assert watch().evaluated
        found = tables.sql(
            "SELECT subject, threshold FROM alert "
            "WHERE over_at IS NULL AND rule = 'error_rate' ORDER BY subject"
        )
        assert [row.subject for row in found] == alerts, key
        assert {row.threshold for row in found} <= {0.09}


def test_health_check_interval_seconds_between_judgements(tables: World, configure: Configure) -> None:
    assert watch().evaluated
    tables.sql("UPDATE alert_watch SET judged_at = now() - interval '100 s'")
    for seconds, judged in ((200, False), (50, True)):
        configure(f"worker_monitoring: {{health_check_interval_seconds: {seconds}}}")
        assert watch().evaluated is judged


async def test_health_check_interval_seconds_is_the_heartbeat(tables: World, configure: Configure) -> None:
    configure(
        "worker_monitoring: {health_check_interval_seconds: 1}\n"
        "metrics_collection: {collection_interval_seconds: 3600}"
    )

    async def beaten() -> bool:
        found = await asyncio.to_thread(
            tables.sql, "SELECT seen_at - started_at > interval '0.5 s' FROM worker_process"
        )
        return found == [(True,)]

    with sampling("test"):
        await until(beaten, 20, "a second heartbeat")
        assert tables.sql("SELECT count(*) FROM system_sample") == [(1,)], (
            "samples are taken by their own interval"
        )


@pytest.mark.parametrize("collection", ["{collection_interval_seconds: 2}", "{enabled: false}"])
async def test_health_check_interval_seconds_defines_which_worker_is_lost(
    tables: World, configure: Configure, collection: str
) -> None:
    configure(f"worker_monitoring: {{health_check_interval_seconds: 7}}\nmetrics_collection: {collection}")

    async def there() -> bool:
        return len(await asyncio.to_thread(tables.sql, "SELECT 1 FROM worker_process")) == 1

    with sampling("test"):
        await until(there, 20, "the process")
    wait_for_samplers()
    configure("{}")
    for silent, state in ((18, "alive"), (22, "lost")):
        tables.sql(
            "UPDATE worker_process SET ended_at = NULL, seen_at = now() - make_interval(secs => :silent)",
            silent=silent,
        )
        system = read_metrics(last(hours=1)).system
        assert system is not None
        assert [process.state for process in system.processes] == [state]


async def test_collection_interval_seconds(tables: World, configure: Configure) -> None:
    configure(
        "worker_monitoring: {health_check_interval_seconds: 3600}\n"
        "metrics_collection: {collection_interval_seconds: 2}"
    )

    async def sampled() -> bool:
        return bool((await asyncio.to_thread(tables.sql, "SELECT count(*) FROM system_sample"))[0][0] >= 3)

    with sampling("test"):
        await until(sampled, 20, "three samples")
    wait_for_samplers()
    ((shortest,),) = tables.sql(
        "SELECT min(pause) FROM (SELECT extract(epoch FROM at - lag(at) OVER (ORDER BY at)) AS pause "
        "FROM (SELECT at FROM system_sample ORDER BY at LIMIT 3) AS first) AS pauses"
    )
    assert shortest > 1


@pytest.mark.parametrize("included", [True, False])
def test_include_system_metrics(tables: World, configure: Configure, included: bool) -> None:
    configure(f"metrics_collection: {{include_system_metrics: {str(included).lower()}}}")
    with sampling("test"):
        pass
    wait_for_samplers()
    found: list[Any] = tables.sql(
        "SELECT process_memory_mb, cpu_percent, memory_percent, "
        "disk_percent, connections_most FROM system_sample"
    )
    assert found
    assert all((value is not None) is included for row in found for value in row[:4])
    assert all(row.connections_most is not None for row in found)
    system = read_metrics().system
    assert system is not None
    assert len(system.processes) == 1
    assert len(system.machines) == int(included)
