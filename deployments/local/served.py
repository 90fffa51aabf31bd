"""Runs a command of ours that serves HTTP as a process. It keeps its address across restarts if possible."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import httpx

from deployments.local.files import read_if_there
from deployments.local.processes import Child, Hurry, free_port, wait_until


class Served:
    """An `order-saga` command with `--port` and `--port-file` that answers at `/health`."""

    name: str
    command: str
    file: str
    """Base name of its log and pid file."""
    usual_port: int
    grace = 5
    """Seconds for a graceful stop."""

    def __init__(
        self,
        *options: str,
        home: Path,
        folder: Path,
        logs: Path,
        pids: Path,
        environment: Mapping[str, str | None] | None = None,
        host: str | None = None,
        port: int | None = None,
    ) -> None:
        """`environment` is added to its environment. `host`, `port`: its address; default: any free port
        on this machine only."""
        port_file = folder / "port"
        noted = read_if_there(port_file).strip()
        self.host = host or "127.0.0.1"
        self.port = free_port(port or (int(noted) if noted.isdigit() else self.usual_port), self.host)
        command = [
            sys.executable,
            "-m",
            *self._program,
            "--port",
            str(self.port),
            "--port-file",
            str(port_file),
            *options,
        ]
        self._called = f"the {self.name}"
        log, pid_file = logs / f"{self.file}.log", pids / f"{self.file}.pid"
        self._child = Child(self._called, command, log=log, pid_file=pid_file, env=environment, cwd=home)

    @property
    def _program(self) -> tuple[str, ...]:
        """Returns the module that Python runs, and its first arguments."""
        return "deployments.cli", self.command

    @property
    def url(self) -> str:
        """The address for programs on this machine."""
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"  # noqa: S104  (compared, not bound)

    @property
    def pid(self) -> int | None:
        return self._child.pid

    def start(self, seconds: float = 60, cancelled: threading.Event | None = None) -> None:
        """Starts it and waits until it answers. Raises StackError with the end of its log."""
        self._child.start()
        with httpx.Client(timeout=5) as client:
            wait_until(
                lambda: self._healthy(client),
                seconds,
                f"{self._called} to answer",
                child=self._child,
                cancelled=cancelled,
            )

    def _healthy(self, client: httpx.Client) -> bool:
        try:
            return client.get(f"{self.url}/health").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def running(self) -> bool:
        return self._child.running()

    def stop(self, hurry: Hurry | None = None) -> None:
        self._child.stop(grace=self.grace, hurry=hurry)
