"""How much was tried."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class OutcomeCounter:
    histories: int = 0
    different: set[int] = field(default_factory=set)
    """By what was passed, in which sequence: two that were drawn differently may be the same."""
    orders: int = 0
    awaits: int = 0
    switches: int = 0
    """Changes from one worker to another."""
    crashes: int = 0
    overtaken: int = 0
    """Orders that were claimed while a worker lived that had claimed them before."""
    known: int = 0
    """Histories that left their orders as earlier ones had."""

    def __str__(self) -> str:
        return (
            f"{self.histories} histories of {self.orders} orders, "
            f"{len(self.different)} of them different interleavings: "
            f"{self.awaits} awaits passed, {self.switches} changes between workers, "
            f"{self.crashes} crashes, {self.overtaken} orders taken from workers that lived; "
            f"{self.known} left their orders as others had, which were recovered"
        )
