"""The Prefect worker that runs the flows, each in a process of its own."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from deployments.local.files import read_if_there, write_whole
from deployments.local.processes import Child, Hurry, free_port, wait_until

POOL = "orders"
METRICS_PORT = 8431


class Worker:
    """`deployments.worker` as a child, asking for work every second.

    `prepare` lets it load while other things start; `start` lets it work and returns once it does.
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
        """`environment` is what a Prefect client needs; `home` is the project's folder, where flows are loaded from. `metrics_port`: where
        it answers Prometheus, or nearby if that is taken; None: nowhere, unless this process's environment says so."""
        self.metrics_url: str | None = None
        """For programs on this machine."""
        if metrics_port is not None:
            port = free_port(metrics_port)
            self.metrics_url = f"http://127.0.0.1:{port}/metrics"
            environment = {**environment, "METRICS_PORT": str(port)}
        self._go = pids / "worker.go"
        command = [sys.executable, "-m", "deployments.local.warm", str(self._go)]
        command += ["--no-prompt", "worker", "start", "--pool", POOL, "--type", "process", "--name", name]
        env = {"PREFECT_WORKER_QUERY_SECONDS": "1", **environment}
        self._child = Child("the worker", command, log=logs / "worker.log", pid_file=pids / "worker.pid", env=env, cwd=home)

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
        """Raises StackError with the end of its log when it does not get ready."""
        if not self._child.running():
            self.prepare()
        write_whole(self._go, api_url)
        wait_until(lambda: "started!" in read_if_there(self.log), seconds, "the worker to be ready", child=self._child, cancelled=cancelled)

    def running(self) -> bool:
        return self._child.running()

    def stop(self, hurry: Hurry | None = None, grace: float = 20) -> None:
        """Lets the flows that run stop (they leave what is under way to recovery), then ends what is left."""
        self._child.stop(grace=grace, hurry=hurry)
        self._go.unlink(missing_ok=True)
