"""Registers the deployments of prefect.yaml with the Prefect server of `make run`."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from deployments.automations import remove_triggers, triggers
from deployments.local.errors import StackError
from deployments.local.files import read_if_there, tail, write_whole
from deployments.local.processes import Hurry, wait_until
from deployments.local.programs import Preloaded
from deployments.prefect_file import FILE, described, values
from deployments.setup.registered import remove_former
from deployments.setup.server import client, every


class Deployments:
    """The deployments of prefect.yaml on one server. Registering takes seconds, so it is skipped if nothing
    has changed.

    `home` is the project's folder, `state` the file that stores what was registered where.
    """

    def __init__(
        self, *, home: Path, state: Path, logs: Path, pids: Path, environment: Mapping[str, str | None]
    ) -> None:
        self._home, self._state = home, state
        self._values = values(home)
        arguments = ["deploy", "--all", "--prefect-file", str(FILE)]
        env = {"PREFECT_CLI_WRAP_LINES": "false", **environment, **self._values}
        self._command = Preloaded(
            "prefect deploy", "deploy", arguments, home=home, logs=logs, pids=pids, environment=env
        )

    def prepare(self, api_url: str) -> None:
        """Starts loading what registering needs, if it is probably needed."""
        if self._known(api_url) is None:
            self._command.prepare()

    def register(self, api_url: str, seconds: float = 180, cancelled: threading.Event | None = None) -> bool:
        """Registers the deployments unless they are up to date. Returns whether it did.

        Raises StackError with the output of `prefect deploy`.
        """
        known = self._known(api_url)
        if known is not None and known <= _registered():
            self.stop()
            return False
        with client() as server:
            remove_triggers(server, described()["deployments"])
        self._command.begin(api_url)
        wait_until(
            lambda: self._command.returncode is not None,
            seconds,
            "prefect deploy to end",
            cancelled=cancelled,
        )
        if self._command.returncode != 0:
            raise StackError(
                "the deployments in prefect.yaml could not be registered. "
                f"Output of `prefect deploy --all`:\n{tail(self._command.log, 30)}"
            )
        self.stop()
        remove_former(apply=True)
        write_whole(
            self._state,
            json.dumps({"api_url": api_url, "digest": self._digest(), "registered": sorted(_registered())}),
        )
        return True

    def stop(self, hurry: Hurry | None = None) -> None:
        self._command.stop(hurry, grace=2)

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
    with client() as server:
        found = {str(each.id) for each in every(server.read_deployments)}
        return found | {str(each.id) for each in triggers(server, described()["deployments"])}
