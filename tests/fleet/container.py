"""One container of compose.yaml as processes of this machine, in a network and a process namespace of its
own: it has its own address, and dies as a whole."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.fleet.images import program_of
from tests.fleet.network import Network


class Container:
    """A service's container. Follows the service's restart policy until `stop`."""

    def __init__(
        self,
        name: str,
        service: Mapping[str, Any],
        *,
        alias: str,
        network: Network,
        folder: Path,
        volumes: Path,
        overrides: Mapping[str, str],
    ) -> None:
        self.name, self.service = name, service
        self._network, self._log = network, folder / "logs" / f"{name}.log"
        self._program = program_of(service["image"], service.get("command"))
        self._paths = self._mounts(folder / "containers" / name, volumes)
        environment = {**self._program.environment, **_given(service), **overrides}
        self._environment = {key: self._here(value) for key, value in environment.items()}
        self._environment.setdefault("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
        self._environment |= {"LANG": "C.UTF-8", "TMPDIR": str(folder)}
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._keeper: threading.Thread | None = None
        self.starts = 0
        self.address = "" if service.get("network_mode") == "none" else network.add(name, *{name, alias})

    def _mounts(self, own: Path, volumes: Path) -> dict[str, str]:
        """Returns the host's path of each path that the container mounts."""
        found: dict[str, str] = {}
        for place in self.service.get("tmpfs", []):
            target = str(place).partition(":")[0]
            if target != "/tmp":
                found[target] = str(own / target.strip("/").replace("/", "-"))
        for mount in self.service.get("volumes", []):
            source = volumes / mount["source"] if mount["type"] == "volume" else Path(mount["source"])
            found[mount["target"]] = str(source)
        for path in found.values():
            if not Path(path).is_file():
                Path(path).mkdir(parents=True, exist_ok=True)
        return found

    def _here(self, text: str) -> str:
        """Replaces paths of the container by those of this machine."""
        for path in sorted(self._paths, key=len, reverse=True):
            text = text.replace(path, self._paths[path])
        return text

    # -- life

    def start(self) -> None:
        self._start()
        if self.service.get("restart", "no") != "no":
            self._keeper = threading.Thread(target=self._keep, name=f"keep {self.name}", daemon=True)
            self._keeper.start()

    def _start(self) -> None:
        self.starts += 1
        folder = self._here(self._program.folder) if self._program.folder else None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._inside,
                    *("unshare", "--uts", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--"),
                    *("sh", "-c", 'hostname "$0" && exec "$@"', self.name),
                    *(self._here(part) for part in self._program.command),
                ],
                env=self._environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def _inside(self) -> list[str]:
        return ["ip", "netns", "exec", self._network.namespace(self.name)] if self.address else []

    def _keep(self) -> None:
        while not self._stopping.is_set():
            assert self._process
            self._process.wait()
            if not self._stopping.wait(0.1):  # Docker's own first pause
                self._start()

    def ended(self, seconds: float) -> int:
        """Waits for a job. Returns its exit code."""
        assert self._process
        return self._process.wait(seconds)

    @property
    def first(self) -> psutil.Process | None:
        """The container's process 1."""
        with suppress(psutil.Error):
            if self._process and (children := psutil.Process(self._process.pid).children()):
                return children[0]
        return None

    def kill(self) -> None:
        """Sends SIGKILL to all of its processes at once, as `docker kill` does."""
        first = self.first
        assert first, f"{self.name} does not run:\n{self.log()}"
        first.send_signal(signal.SIGKILL)
        first.wait(10)

    def stop(self, seconds: float = 30) -> float:
        """Sends SIGTERM, and SIGKILL after that time. Returns how many seconds it took."""
        began = time.monotonic()
        self._stopping.set()
        if self._process:
            with suppress(psutil.Error, subprocess.TimeoutExpired):
                if first := self.first:
                    first.terminate()
                    self._process.wait(seconds)
            if self._process.poll() is None:
                with suppress(psutil.Error):
                    if first := self.first:
                        first.kill()
                self._process.kill()
            self._process.wait()
        return time.monotonic() - began

    # -- looking

    def healthy(self) -> bool:
        """Runs its health check."""
        test = self.service["healthcheck"]["test"]
        command = ["sh", "-c", test[1]] if test[0] == "CMD-SHELL" else test[1:]
        if (first := self.first) is None:
            return False
        inside = ["nsenter", "--target", str(first.pid), "--net", "--pid", "--mount", "--uts", "--"]
        try:
            done = subprocess.run(
                [*inside, *(self._here(part) for part in command)],
                env=self._environment,
                capture_output=True,
                timeout=10,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def log(self, lines: int = 30) -> str:
        if not self._log.exists():
            return ""
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _given(service: Mapping[str, Any]) -> dict[str, str]:
    given = service.get("environment") or {}
    return {key: str(value) for key, value in given.items() if value is not None}
