"""The web app as a process of its own: orders and webhooks over HTTP."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from deployments.stack.files import read_if_there, write_whole
from deployments.stack.served import Served

_KEY_BYTES = 32


class Web(Served):
    """`python -m deployments.webhooks`."""

    name, module, file, usual_port = "web app", "deployments.webhooks", "web", 8430
    grace = 8

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
        where = {"home": home, "folder": folder, "logs": logs, "pids": pids}
        super().__init__("--host", host or "127.0.0.1", environment=environment, host=host, port=port, **where)


def key_in(file: Path) -> str:
    """The key for sending orders that is in the file; a new one if there is none. Only the file's owner can read it."""
    if not (key := read_if_there(file).strip()):
        key = secrets.token_urlsafe(_KEY_BYTES)
        write_whole(file, key + "\n")
    return key
