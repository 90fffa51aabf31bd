"""The sandbox payment gateway as a process of its own: an outside world on this machine."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import httpx

from deployments.stack.files import read_if_there
from deployments.stack.processes import Child, Hurry, free_port, wait_until

_USUAL_PORT = 8420


class Sandbox:
    """`python -m shop.payments.sandbox`, with its ledger under `folder`. It keeps its address from one start to the next if it can."""

    def __init__(self, *, home: Path, folder: Path, logs: Path, pids: Path) -> None:
        port_file = folder / "port"
        noted = read_if_there(port_file).strip()
        self.port = free_port(int(noted) if noted.isdigit() else _USUAL_PORT)
        self.ledger = folder / "ledger.sqlite"
        command = [sys.executable, "-m", "shop.payments.sandbox", "--port", str(self.port)]
        command += ["--db", str(self.ledger), "--port-file", str(port_file)]
        self._child = Child("the payment sandbox", command, log=logs / "sandbox.log", pid_file=pids / "sandbox.pid", cwd=home)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._child.pid

    def start(self, seconds: float = 60, cancelled: threading.Event | None = None) -> None:
        """Raises StackError with the end of its log when it does not answer."""
        self.ledger.parent.mkdir(parents=True, exist_ok=True)
        self._child.start()
        with httpx.Client(timeout=2) as client:
            wait_until(lambda: self._healthy(client), seconds, "the payment sandbox to answer", child=self._child, cancelled=cancelled)

    def _healthy(self, client: httpx.Client) -> bool:
        try:
            return client.get(f"{self.url}/health").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def running(self) -> bool:
        return self._child.running()

    def stop(self, hurry: Hurry | None = None) -> None:
        self._child.stop(grace=5, hurry=hurry)
