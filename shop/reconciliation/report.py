"""What one reconciliation found, without growing with it."""

from __future__ import annotations

from collections import Counter

from shop.reconciliation.discrepancy import Discrepancy, Kind


class Report:
    """Counts every discrepancy, and keeps the first `SHOWN` to be shown."""

    SHOWN = 500

    def __init__(self) -> None:
        self.mended: Counter[Kind] = Counter()
        self.open: Counter[Kind] = Counter()
        """For a person."""
        self.shown: list[Discrepancy] = []

    def begin_again(self) -> None:
        """Before another attempt: what is open will be found again; what is mended will not, and stays."""
        self.open.clear()
        self.shown = [discrepancy for discrepancy in self.shown if discrepancy.mended]

    def add(self, discrepancy: Discrepancy) -> None:
        (self.mended if discrepancy.mended else self.open)[discrepancy.kind] += 1
        if len(self.shown) < self.SHOWN:
            self.shown.append(discrepancy)

    @property
    def total(self) -> int:
        return self.mended.total() + self.open.total()

    def summary(self) -> str:
        """For people, in one line."""
        parts = []
        if self.open:
            parts.append(f"{self.open.total()} for a person: {_list(self.open)}")
        if self.mended:
            parts.append(f"{self.mended.total()} mended: {_list(self.mended)}")
        return "; ".join(parts) or "no discrepancy"


def _list(counts: Counter[Kind]) -> str:
    return ", ".join(f"{count} x {kind.value.replace('_', ' ')}" for kind, count in counts.most_common())
