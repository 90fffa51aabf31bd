"""Runs the web app as a process: orders and webhooks over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deployments.local.served import Served


class Web(Served):
    """`order-saga web`."""

    name, command, file, usual_port = "web app", "web", "web", 8430
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
        """`environment` is added to its environment. `host`, `port`: its address; default: any free port
        on this machine only."""
        where = {"home": home, "folder": folder, "logs": logs, "pids": pids}
        super().__init__(
            "--host", host or "127.0.0.1", environment=environment, host=host, port=port, **where
        )
