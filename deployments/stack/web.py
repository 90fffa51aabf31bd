"""The web app as a process of its own: orders and webhooks over HTTP."""

from __future__ import annotations

import secrets
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import httpx

from deployments.stack.files import read_if_there, write_whole
from deployments.stack.processes import Child, Hurry, free_port, wait_until

_USUAL_PORT = 8430
_KEY_BYTES = 32


class Web:
    """`python -m deployments.webhooks`. It keeps its address from one start to the next if it can; a port that is taken is no matter."""

    def __init__(
        self,
        *,
        home: Path,
        folder: Path,
        logs: Path,
        pids: Path,
        environment: Mapping[str, str | None],
        host: str | None = None,
        port: int | None = None,
    ) -> None:
        """`environment` is what the app needs to know. `host`, `port`: where it is wanted; default: on this machine only, anywhere."""
        port_file = folder / "port"
        noted = read_if_there(port_file).strip()
        self.host = host or "127.0.0.1"
        self.port = free_port(port or (int(noted) if noted.isdigit() else _USUAL_PORT), self.host)
        command = [
            sys.executable,
            "-m",
            "deployments.webhooks",
            "--host",
            self.host,
            "--port",
            str(self.port),
            "--port-file",
            str(port_file),
        ]
        self._child = Child("the web app", command, log=logs / "web.log", pid_file=pids / "web.pid", env=environment, cwd=home)

    @property
    def url(self) -> str:
        """For programs on this machine."""
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"  # noqa: S104  (compared, not bound)

    @property
    def pid(self) -> int | None:
        return self._child.pid

    def start(self, seconds: float = 60, cancelled: threading.Event | None = None) -> None:
        """Raises StackError with the end of its log when it does not answer."""
        self._child.start()
        with httpx.Client(timeout=5) as client:
            wait_until(lambda: self._healthy(client), seconds, "the web app to answer", child=self._child, cancelled=cancelled)

    def _healthy(self, client: httpx.Client) -> bool:
        try:
            return client.get(f"{self.url}/health").status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def running(self) -> bool:
        return self._child.running()

    def stop(self, hurry: Hurry | None = None) -> None:
        self._child.stop(grace=8, hurry=hurry)


def key_in(file: Path) -> str:
    """The key for sending orders that is in the file; a new one if there is none. Only the file's owner can read it."""
    if not (key := read_if_there(file).strip()):
        key = secrets.token_urlsafe(_KEY_BYTES)
        write_whole(file, key + "\n", mode=0o600)
    return key
