"""The result of one reconciliation, in bounded memory."""

from __future__ import annotations

from collections import Counter

from shop.reconciliation.discrepancy import Discrepancy, Kind


class Report:
    """Counts every discrepancy and keeps the first `SHOWN` for display."""

    SHOWN = 500

    def __init__(self) -> None:
        self.repaired: Counter[Kind] = Counter()
        self.open: Counter[Kind] = Counter()
        """Those that need a person."""
        self.shown: list[Discrepancy] = []

    def begin_again(self) -> None:
        """Prepares for another attempt, which finds open discrepancies again, but not repaired ones."""
        self.open.clear()
        self.shown = [discrepancy for discrepancy in self.shown if discrepancy.repaired]

    def add(self, discrepancy: Discrepancy) -> None:
        (self.repaired if discrepancy.repaired else self.open)[discrepancy.kind] += 1
        if len(self.shown) < self.SHOWN:
            self.shown.append(discrepancy)

    @property
    def total(self) -> int:
        return self.repaired.total() + self.open.total()

    def summary(self) -> str:
        """Returns a line for people."""
        parts = []
        if self.open:
            parts.append(f"{self.open.total()} need a person: {_list(self.open)}")
        if self.repaired:
            parts.append(f"{self.repaired.total()} repaired: {_list(self.repaired)}")
        return "; ".join(parts) or "no discrepancy"


def _list(counts: Counter[Kind]) -> str:
    return ", ".join(f"{count} x {kind.value.replace('_', ' ')}" for kind, count in counts.most_common())
