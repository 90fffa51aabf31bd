"""Starts what compose.yaml describes as processes of this machine, in the sequence of its conditions."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.fleet.container import Container
from tests.fleet.images import ROOT
from tests.fleet.network import Network

COMPOSE = ROOT / "deployments" / "docker" / "compose.yaml"
_START_SECONDS = 240


def described(*profiles: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Returns compose.yaml as Compose itself reads it: complete, with its variables replaced. Fails if it is
    not valid."""
    command = [str(Path(sys.executable).with_name("docker-compose")), "--file", str(COMPOSE)]
    command += [part for profile in profiles for part in ("--profile", profile)]
    done = subprocess.run(
        [*command, "config", "--format", "json"],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip(), done.stderr
    found: dict[str, Any] = _unescaped(json.loads(done.stdout))
    return found


def _unescaped(value: Any) -> Any:
    """Compose writes a dollar sign as two, so that its output can be its input."""
    if isinstance(value, str):
        return value.replace("$$", "$")
    if isinstance(value, dict):
        return {key: _unescaped(each) for key, each in value.items()}
    return [_unescaped(each) for each in value] if isinstance(value, list) else value


class Fleet:
    """All containers of a profile. `later`: services that do not start with the others, but by `start`."""

    def __init__(
        self,
        folder: Path,
        profile: str,
        report_line: Callable[[str], None],
        *,
        later: frozenset[str] = frozenset(),
    ) -> None:
        self.folder, self._report_line = folder, report_line
        self.services: dict[str, dict[str, Any]] = described(profile)["services"]
        self._later = later
        self.network = Network(folder)
        self.containers: dict[str, Container] = {}

    def __enter__(self) -> Self:
        for name in ("logs", "containers", "volumes"):
            (self.folder / name).mkdir()
        try:
            self.network.open()
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for container in reversed(self.containers.values()):
            container.stop(seconds=0.5)
        self.network.close()

    def of(self, service: str) -> list[Container]:
        """Returns the service's containers."""
        return [self.containers[name] for name in self._names(service)]

    def _names(self, service: str) -> list[str]:
        count = int(self.services[service].get("scale") or 1)
        return [service] if count == 1 else [f"{service}-{number + 1}" for number in range(count)]

    def secret(self, name: str) -> str:
        return (self.folder / "volumes" / "secrets" / name).read_text(encoding="utf-8").strip()

    def _start(self) -> None:
        began = time.monotonic()
        left = {name: service for name, service in self.services.items() if name not in self._later}
        while left:
            name = next(
                n for n, service in left.items() if not set(service.get("depends_on") or {}) & set(left)
            )
            del left[name]
            self.start(name)
            self._report_line(f"{time.monotonic() - began:5.1f} s  {name} started")
        for name in self.services.keys() - self._later:
            if self.services[name].get("healthcheck"):
                self._wait_for(name, "service_healthy")
        self._report_line(f"{time.monotonic() - began:5.1f} s  all are healthy")

    def _needs(self, name: str) -> dict[str, Any]:
        return self.services[name].get("depends_on") or {}

    def start(self, name: str) -> None:
        """Starts the service's containers, once what they depend on is as they need it."""
        service = self.services[name]
        for other, how in self._needs(name).items():
            if other in self.services:
                self._wait_for(other, how["condition"])
        for each in self._names(name):
            self.containers[each] = Container(
                each,
                service,
                alias=name,
                network=self.network,
                folder=self.folder,
                volumes=self.folder / "volumes",
                overrides={"PREFECT_HOSTS": f"localhost 127.0.0.1 {name} {self.network.next_address}"},
            )
            self.containers[each].start()

    def _wait_for(self, service: str, condition: str) -> None:
        for container in self.of(service):
            if condition == "service_completed_successfully":
                code = container.ended(_START_SECONDS)
                assert code == 0, f"{service} ended with {code}:\n{container.log()}"
            elif condition == "service_healthy":
                self.wait_until(container.healthy, f"{container.name} to be healthy:\n{container.log()}")

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float = _START_SECONDS) -> float:
        """Returns how many seconds it took."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() < began + seconds, f"waited {seconds:.0f} s for {what}"
            time.sleep(0.1)
        return time.monotonic() - began
