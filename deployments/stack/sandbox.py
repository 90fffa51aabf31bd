"""The sandbox payment gateway as a process of its own: an outside world on this machine."""

from __future__ import annotations

from pathlib import Path

from deployments.stack.served import Served


class Sandbox(Served):
    """`python -m shop.payments.sandbox`, with its ledger under `folder`."""

    name, module, file, usual_port = "payment sandbox", "shop.payments.sandbox", "sandbox", 8420

    def __init__(self, *, home: Path, folder: Path, logs: Path, pids: Path) -> None:
        self.ledger = folder / "ledger.sqlite"
        super().__init__("--db", str(self.ledger), home=home, folder=folder, logs=logs, pids=pids)
