"""Runs the sandbox payment gateway as a process."""

from __future__ import annotations

from pathlib import Path

from deployments.local.served import Served


class Sandbox(Served):
    """`order-saga sandbox`, with its ledger under `folder`."""

    name, command, file, usual_port = "payment sandbox", "sandbox", "sandbox", 8420

    def __init__(self, *, home: Path, folder: Path, logs: Path, pids: Path) -> None:
        self.ledger = folder / "ledger.sqlite"
        super().__init__("--db", str(self.ledger), home=home, folder=folder, logs=logs, pids=pids)
