"""Records the heartbeat and resource use of a long-running process, in its own thread: it blocks no event
loop and fails no order.

It holds a database connection only while it writes.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import NullPool, text

from saga.database import new_engine, pool_use
from shop.monitoring.config import Monitoring, monitoring
from shop.settings import Settings, at

log = logging.getLogger(__name__)

_MEGABYTE = 1024 * 1024
_CLEANUP_SECONDS = 3600
_END_SECONDS = 3
_OPTIONS = "-c statement_timeout=5000 -c lock_timeout=2000"
_HEARTBEAT = text(
    "INSERT INTO worker_process (id, kind, host, pid, flow_run_id, every_seconds) "
    "VALUES (:id, :kind, :host, :pid, :run, :every) ON CONFLICT (id) DO UPDATE SET seen_at = now()"
)
_ENDED = text("UPDATE worker_process SET ended_at = now(), seen_at = now() WHERE id = :id")
_SAMPLE = text(
    "INSERT INTO system_sample (process_id, process_cpu_percent, process_memory_mb, cpu_percent, "
    "memory_percent, disk_percent, connections_in_use, connections_open, connections_most) "
    "VALUES (:process_id, :process_cpu_percent, :process_memory_mb, :cpu_percent, :memory_percent, "
    ":disk_percent, :connections_in_use, :connections_open, :connections_most)"
)
_SYSTEM = ("process_cpu_percent", "process_memory_mb", "cpu_percent", "memory_percent", "disk_percent")
_CLEANUP = (
    text("DELETE FROM system_sample WHERE at < now() - make_interval(secs => :seconds)"),
    text("DELETE FROM worker_process WHERE seen_at < now() - make_interval(secs => :seconds)"),
)


@contextmanager
def sampling(kind: str, *, flow_run_id: str | None = None, database_url: str | None = None) -> Iterator[None]:
    """Records this process, as one of this kind, in the system metrics of a database (None: the shop's)
    while the body runs. Does nothing if the configuration turns it off."""
    config = monitoring()
    if not (config.worker_monitoring.enabled or config.metrics_collection.enabled):
        yield
        return
    sampler = Sampler(kind, config, at(database_url), flow_run_id)
    sampler.start()
    try:
        yield
    finally:
        sampler.stop()


class Sampler:
    """Records one process. Never raises: a failure to write is logged once and retried."""

    def __init__(
        self, kind: str, config: Monitoring, settings: Settings, flow_run_id: str | None = None
    ) -> None:
        self.id, self._config, self._settings = uuid4(), config, settings
        self._who = {
            "id": self.id,
            "kind": kind,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "run": flow_run_id,
            "every": config.worker_monitoring.health_check_interval_seconds,
        }
        self._stopped = threading.Event()
        self._failing = False
        self._process: Any = None
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stops without waiting; the thread records the end. A process that exits waits for it briefly."""
        self._stopped.set()
        _ending.append(self._thread)

    def _run(self) -> None:
        beat = self._config.worker_monitoring.health_check_interval_seconds
        every = self._config.metrics_collection.collection_interval_seconds
        next_beat = next_sample = next_cleanup = time.monotonic()
        self._measure()  # CPU is measured between two calls
        while not self._stopped.is_set():
            now = time.monotonic()
            beats, samples, cleans = (
                now >= next_beat,
                now >= next_sample and self._config.metrics_collection.enabled,
                now >= next_cleanup,
            )
            if beats or samples:
                self._write(sample=samples, clean=cleans)
            next_beat = now + beat if beats else next_beat
            next_sample = now + every if now >= next_sample else next_sample
            next_cleanup = now + _CLEANUP_SECONDS if cleans else next_cleanup
            self._stopped.wait(max(0.05, min(next_beat, next_sample) - time.monotonic()))
        self._write(sample=self._config.metrics_collection.enabled, ended=True)

    def _write(self, *, sample: bool = False, clean: bool = False, ended: bool = False) -> None:
        try:
            url = self._settings.database_url
            engine = new_engine(url, poolclass=NullPool, arguments={"options": _OPTIONS})
            with engine.begin() as connection:
                connection.execute(_HEARTBEAT, self._who)
                if ended:
                    connection.execute(_ENDED, self._who)
                if sample:
                    connection.execute(_SAMPLE, {"process_id": self.id, **self._measure()})
                kept = {"seconds": self._config.event_monitoring.trace_retention_hours * 3600}
                for statement in _CLEANUP if clean else ():
                    connection.execute(statement, kept)
        except Exception as error:  # noqa: BLE001  (monitoring must not fail an order)
            if not self._failing:
                log.warning(
                    "recording the resource use of this process failed (%s); retrying", type(error).__name__
                )
            self._failing = True
        else:
            self._failing = False

    def _measure(self) -> dict[str, float | int | None]:
        use = pool_use()
        found: dict[str, float | int | None] = dict.fromkeys(_SYSTEM)
        found |= {
            "connections_in_use": use.in_use,
            "connections_open": use.open,
            "connections_most": use.most,
        }
        if self._config.metrics_collection.include_system_metrics:
            import psutil

            self._process = self._process or psutil.Process()
            with suppress(psutil.Error, OSError):
                found |= {
                    "process_cpu_percent": self._process.cpu_percent(),
                    "process_memory_mb": self._process.memory_info().rss / _MEGABYTE,
                    "cpu_percent": psutil.cpu_percent(),
                    "memory_percent": psutil.virtual_memory().percent,
                    "disk_percent": psutil.disk_usage(str(_existing(self._settings.var_dir))).percent,
                }
        return found


_ending: list[threading.Thread] = []


def wait_for_samplers(seconds: float = _END_SECONDS) -> None:
    """Waits until stopped samplers have recorded their end, for at most this many seconds. For process
    exit and tests."""
    until = time.monotonic() + seconds
    while _ending:
        _ending.pop().join(max(0.0, until - time.monotonic()))


atexit.register(wait_for_samplers)


def _existing(folder: Path) -> Path:
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
