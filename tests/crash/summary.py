"""What the crash tests did, in one table at their end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table


@dataclass
class Line:
    """One kind of test."""

    title: str
    points: int | None
    """At which workers were killed; None: anywhere."""
    kills: int
    outcomes: Counter[str]
    recovered: int
    """Orders that another worker had to take over."""
    longest_recovery: float
    """Seconds until another worker had completed the orders (the matrix),
    or had claimed them (random kills)."""
    discrepancies: int
    seed: int | None = None


@dataclass
class Summary:
    """Filled by the tests, printed when they are over."""

    lines: list[Line] = field(default_factory=list)

    def table(self) -> Table:
        table = Table(title="Killed, recovered, compared with the gateway's ledger", title_justify="left")
        for name in (
            "",
            "points",
            "kills",
            "orders by outcome",
            "recovered",
            "longest recovery",
            "discrepancies",
        ):
            table.add_column(name, justify="left" if name in {"", "orders by outcome"} else "right")
        for line in self.lines:
            table.add_row(
                line.title if line.seed is None else f"{line.title}\nSEED={line.seed}",
                "any" if line.points is None else str(line.points),
                str(line.kills),
                "\n".join(f"{n} {outcome}" for outcome, n in line.outcomes.most_common()),
                str(line.recovered),
                f"{line.longest_recovery:.1f} s",
                str(line.discrepancies),
            )
        return table

    def text(self, width: int) -> str:
        console = Console(width=max(width, 110), color_system=None)
        with console.capture() as capture:
            console.print(self.table())
        return capture.get()
