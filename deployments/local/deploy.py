"""Registers the deployments of prefect.yaml with the Prefect server of `make run`."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from deployments.automations import remove_triggers, triggers
from deployments.local.errors import StackError
from deployments.local.files import read_if_there, tail, write_whole
from deployments.local.processes import Child, Hurry, wait_until
from deployments.prefect_file import FILE, described, values
from deployments.setup.former import remove_former
from deployments.setup.server import client


class Deployments:
    """The deployments of prefect.yaml on one server. Registering takes seconds, so it is skipped if nothing
    has changed.

    `home` is the project's folder, `state` the file that stores what was registered where.
    """

    def __init__(
        self, *, home: Path, state: Path, logs: Path, pids: Path, environment: Mapping[str, str | None]
    ) -> None:
        self._home, self._state, self._go = home, state, pids / "deploy.go"
        command = [
            sys.executable,
            "-m",
            "deployments.local.warm",
            str(self._go),
            "--no-prompt",
            "deploy",
            "--all",
            "--prefect-file",
            str(FILE),
        ]
        self._values = values(home)
        env = {"PREFECT_CLI_WRAP_LINES": "false", **environment, **self._values}
        self._child = Child(
            "prefect deploy",
            command,
            log=logs / "deploy.log",
            pid_file=pids / "deploy.pid",
            env=env,
            cwd=home,
        )

    def prepare(self, api_url: str) -> None:
        """Starts loading what registering needs, if it is probably needed."""
        if self._known(api_url) is None:
            self._load()

    def register(self, api_url: str, seconds: float = 180, cancelled: threading.Event | None = None) -> bool:
        """Registers the deployments unless they are up to date. Returns whether it did.

        Raises StackError with the output of `prefect deploy`.
        """
        known = self._known(api_url)
        if known is not None and known <= _registered():
            self.stop()
            return False
        if not self._child.running():
            self._load()
        with client() as server:
            remove_triggers(server, described()["deployments"])
        write_whole(self._go, api_url)
        wait_until(
            lambda: self._child.returncode is not None,
            seconds,
            "prefect deploy to end",
            child=None,
            cancelled=cancelled,
        )
        if self._child.returncode != 0:
            raise StackError(
                "the deployments in prefect.yaml could not be registered. "
                f"Output of `prefect deploy --all`:\n{tail(self._child.log, 30)}"
            )
        self.stop()
        remove_former(apply=True)
        write_whole(
            self._state,
            json.dumps({"api_url": api_url, "digest": self._digest(), "registered": sorted(_registered())}),
        )
        return True

    def stop(self, hurry: Hurry | None = None) -> None:
        self._child.stop(grace=2, hurry=hurry)
        self._go.unlink(missing_ok=True)

    def _load(self) -> None:
        self._go.unlink(missing_ok=True)
        self._child.start()

    def _known(self, api_url: str) -> set[str] | None:
        """Returns the ids that were registered, if on this server and from these files."""
        with suppress(ValueError, KeyError, TypeError):
            noted: dict[str, Any] = json.loads(read_if_there(self._state))
            if noted["api_url"] == api_url and noted["digest"] == self._digest():
                return set(noted["registered"])
        return None

    def _digest(self) -> str:
        from importlib.metadata import version

        # The deployments contain the values.
        digest = hashlib.sha256(f"{version('prefect')}\0{json.dumps(self._values)}".encode())
        for path in self._sources():
            digest.update(f"\0{path.relative_to(self._home)}\0".encode() + path.read_bytes())
        return digest.hexdigest()

    def _sources(self) -> Iterator[Path]:
        yield from (self._home / "deployments").glob("prefect.yaml")
        for folder in ("flows", "tasks", "shop/orders"):
            yield from sorted((self._home / folder).rglob("*.py"))


def _registered() -> set[str]:
    """Returns the ids of all deployments on the server, and of the automations that are their triggers."""
    found: set[str] = set()
    with client() as server:
        while page := server.read_deployments(limit=200, offset=len(found)):
            found |= {str(deployment.id) for deployment in page}
            if len(page) < 200:
                break
        return found | {str(each.id) for each in triggers(server, described()["deployments"])}
