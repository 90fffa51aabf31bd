"""Runs the Prefect worker, which runs each flow in its own process."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from deployments.local.files import read_if_there, write_whole
from deployments.local.processes import Child, Hurry, free_port, wait_until
from shop.settings import settings

METRICS_PORT = 8431


class Worker:
    """`deployments.worker` as a child, which polls for work every second.

    `prepare` preloads it while other parts start; `start` makes it work and returns when it does.
    """

    def __init__(
        self,
        *,
        home: Path,
        logs: Path,
        pids: Path,
        environment: Mapping[str, str | None],
        name: str = "embedded",
        metrics_port: int | None = None,
    ) -> None:
        """`environment` is what a Prefect client needs; `home` is the project's folder, with the flows.
        `metrics_port`: the port for Prometheus, or a nearby one if it is taken; None: none, unless this
        process's environment sets one."""
        self.metrics_url: str | None = None
        """The address for programs on this machine."""
        if metrics_port is not None:
            port = free_port(metrics_port)
            self.metrics_url = f"http://127.0.0.1:{port}/metrics"
            environment = {**environment, "METRICS_PORT": str(port)}
        self._go = pids / "worker.go"
        command = [sys.executable, "-m", "deployments.local.warm", str(self._go)]
        command += ["--no-prompt", "worker", "start", "--pool", settings().workers.pool]
        command += ["--type", "process", "--name", name]
        env = {"PREFECT_WORKER_QUERY_SECONDS": "1", **environment}
        self._child = Child(
            "the worker", command, log=logs / "worker.log", pid_file=pids / "worker.pid", env=env, cwd=home
        )

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def log(self) -> Path:
        return self._child.log

    def prepare(self) -> None:
        self._go.unlink(missing_ok=True)
        self._child.start()

    def start(self, api_url: str, seconds: float = 120, cancelled: threading.Event | None = None) -> None:
        """Waits until it is ready. Raises StackError with the end of its log."""
        if not self._child.running():
            self.prepare()
        write_whole(self._go, api_url)
        wait_until(
            lambda: "started!" in read_if_there(self.log),
            seconds,
            "the worker to be ready",
            child=self._child,
            cancelled=cancelled,
        )

    def running(self) -> bool:
        return self._child.running()

    def stop(self, hurry: Hurry | None = None, grace: float = 20) -> None:
        """Lets running flows stop gracefully (recovery continues their orders), then kills what is left."""
        self._child.stop(grace=grace, hurry=hurry)
        self._go.unlink(missing_ok=True)
