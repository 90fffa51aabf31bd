"""The programs that run as processes of their own: services over HTTP, and Prefect's commands, which are
preloaded."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

from deployments.local.files import read_if_there, write_whole
from deployments.local.processes import Child, free_port, wait_until
from shop.settings import settings

METRICS_PORT = 8431
Environment = Mapping[str, str | None]


class Program:
    """A Python module that runs as a process, with its log and pid file. `environment` is added to this
    process's."""

    grace: float = 5
    """Seconds for a graceful stop."""

    def __init__(
        self,
        name: str,
        file: str,
        command: Sequence[str],
        *,
        home: Path,
        logs: Path,
        pids: Path,
        environment: Environment | None = None,
    ) -> None:
        """`file`: base name of its log and pid file. `home`: the project's folder, with the flows."""
        log, pid_file = logs / f"{file}.log", pids / f"{file}.pid"
        command = [sys.executable, "-m", *command]
        self._child = Child(name, command, log=log, pid_file=pid_file, env=environment, cwd=home)

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def log(self) -> Path:
        return self._child.log

    def running(self) -> bool:
        return self._child.running()

    def stop(self, hurry: threading.Event | None = None, grace: float | None = None) -> None:
        self._child.stop(grace=self.grace if grace is None else grace, hurry=hurry)

    def _wait_until(
        self, condition: Callable[[], bool], seconds: float, what: str, cancelled: threading.Event | None
    ) -> None:
        what = f"{self._child.name} {what}"
        wait_until(condition, seconds, what, child=self._child, cancelled=cancelled)

    def _wait_for_answer(self, url: str, seconds: float, cancelled: threading.Event | None) -> None:
        with httpx.Client(timeout=5) as client:
            self._wait_until(lambda: answers(client, url), seconds, "to answer", cancelled)


def answers(client: httpx.Client, url: str, worst: int = httpx.codes.OK) -> bool:
    """Returns whether the address answers with at most this status."""
    try:
        return client.get(url).status_code <= worst
    except httpx.HTTPError:
        return False


def usual_port(file: Path, otherwise: int) -> int:
    """Returns the port that the file has from an earlier start."""
    noted = read_if_there(file).strip()
    return int(noted) if noted.isdigit() else otherwise


class Served(Program):
    """A program with `--port` and `--port-file` that answers at `/health`, such as a command of `order-saga`.
    It keeps its address across restarts if possible."""

    name: str
    program: tuple[str, ...]
    """The module that Python runs, and its first arguments."""
    file: str
    """Base name of its log and pid file."""
    usual_port: int

    def __init__(
        self,
        *options: str,
        home: Path,
        folder: Path,
        logs: Path,
        pids: Path,
        environment: Environment | None = None,
        host: str | None = None,
        port: int | None = None,
    ) -> None:
        """`host`, `port`: its address; default: any free port on this machine only."""
        port_file = folder / "port"
        self.host = host or "127.0.0.1"
        self.port = free_port(port or usual_port(port_file, self.usual_port), self.host)
        command = [*self.program, "--port", str(self.port), "--port-file", str(port_file), *options]
        super().__init__(
            f"the {self.name}", self.file, command, home=home, logs=logs, pids=pids, environment=environment
        )

    @property
    def url(self) -> str:
        """The address for programs on this machine."""
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"  # noqa: S104  (compared, not bound)

    def start(self, seconds: float = 60, cancelled: threading.Event | None = None) -> None:
        """Starts it and waits until it answers. Raises StackError with the end of its log."""
        self._child.start()
        self._wait_for_answer(f"{self.url}/health", seconds, cancelled)


class Sandbox(Served):
    """The sandbox payment gateway, with its ledger under `folder`."""

    name, program = "payment sandbox", ("deployments.cli", "sandbox")
    file, usual_port = "sandbox", 8420

    def __init__(self, *, home: Path, folder: Path, logs: Path, pids: Path) -> None:
        self.ledger = folder / "ledger.sqlite"
        super().__init__("--db", str(self.ledger), home=home, folder=folder, logs=logs, pids=pids)


class LocalModel(Served):
    """The local language model, which all workers share."""

    name, program = "local language model", ("shop.confirmation.local_model",)
    file, usual_port = "local-model", 8440

    @property
    def api_base(self) -> str:
        """The value for `DSPY_API_BASE`."""
        return f"{self.url}/v1"


class Web(Served):
    """The web app: orders and webhooks over HTTP."""

    name, program = "web app", ("deployments.cli", "web")
    file, usual_port = "web", 8430
    grace = 8


class Preloaded(Program):
    """A command of Prefect's. `prepare` loads its code while other parts start; it begins when it gets the
    API's address (`deployments.warm`)."""

    def __init__(
        self,
        name: str,
        file: str,
        arguments: Sequence[str],
        *,
        home: Path,
        logs: Path,
        pids: Path,
        environment: Environment,
    ) -> None:
        self._go = pids / f"{file}.go"
        command = ["deployments.warm", str(self._go), "--no-prompt", *arguments]
        super().__init__(name, file, command, home=home, logs=logs, pids=pids, environment=environment)

    @property
    def returncode(self) -> int | None:
        """The exit code; None while it runs or before it was started."""
        return self._child.returncode

    def prepare(self) -> None:
        self._go.unlink(missing_ok=True)
        self._child.start()

    def begin(self, api_url: str) -> None:
        """Makes it begin; loads its code before, if that has not been done."""
        if not self.running():
            self.prepare()
        write_whole(self._go, api_url)

    def stop(self, hurry: threading.Event | None = None, grace: float | None = None) -> None:
        super().stop(hurry, grace)
        self._go.unlink(missing_ok=True)


class Worker(Preloaded):
    """The Prefect worker, which runs each flow in a process of its own. It polls for work every second. When
    it is stopped, its runs stop gracefully (recovery continues their orders)."""

    grace = 20

    def __init__(
        self,
        *,
        home: Path,
        logs: Path,
        pids: Path,
        environment: Environment,
        name: str = "embedded",
        metrics_port: int | None = None,
    ) -> None:
        """`environment` is what a Prefect client needs. `metrics_port`: the port for Prometheus, or a nearby
        one if it is taken; None: none, unless this process's environment sets one."""
        self.metrics_url: str | None = None
        """The address for programs on this machine."""
        if metrics_port is not None:
            port = free_port(metrics_port)
            self.metrics_url = f"http://127.0.0.1:{port}/metrics"
            environment = {**environment, "METRICS_PORT": str(port)}
        pool = settings().workers.pool
        arguments = ["worker", "start", "--pool", pool, "--type", "process", "--name", name]
        environment = {"PREFECT_WORKER_QUERY_SECONDS": "1", **environment}
        super().__init__(
            "the worker", "worker", arguments, home=home, logs=logs, pids=pids, environment=environment
        )

    def start(self, api_url: str, seconds: float = 120, cancelled: threading.Event | None = None) -> None:
        """Waits until it is ready. Raises StackError with the end of its log."""
        self.begin(api_url)
        self._wait_until(lambda: "started!" in read_if_there(self.log), seconds, "to be ready", cancelled)
