"""What a benchmark consists of: lines that are measured, ratios between them, and claims with a threshold.

To add a line, add a `Line` to the suite in `throughput.py` (and its measurement to `lanes.py`, if there is
none of that kind). To add a claim, add a `Claim`. The tables, `--json` and `last.json` follow.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

Measured = dict[str, Any]
"""What one line measured: values by key."""
Results = dict[str, Measured]
"""What was measured, by the line's name."""

ORDERS_PER_SECOND = "orders_per_second"
P50 = "p50_ms"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: a measurement, in a process of its own."""

    name: str
    kind: str
    """The measurement in `module`."""
    number: int
    """How many orders (or runs) it takes."""
    quick: int
    """The same with `--quick`; 0: the line is left out there."""
    options: tuple[str, ...] = ()
    """More arguments for `module`."""
    runs: int = 1
    """How often it is measured, interleaved with the other lines. The median counts: machines are noisy."""
    module: str = "benchmarks.lanes"
    python: str = sys.executable

    def command(self, *, quick: bool) -> list[str]:
        number = self.quick if quick else self.number
        return [self.python, "-m", self.module, self.kind, str(number), *self.options]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of measured values."""

    head: str
    key: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A column of ratios: each line's value divided by that of `to`, in the same run."""

    head: str
    to: Line
    key: str = ORDERS_PER_SECOND

    @property
    def name(self) -> str:
        return self.head.replace("\n", " ")

    def of(self, measured: Measured, results: Results) -> float | None:
        """Returns the ratio, or None if the line or `to` has no such value."""
        value, base = measured.get(self.key), results.get(self.to.name, {}).get(self.key)
        return value / base if value and base else None


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed limit of a line's value: divided by the same value of `to`, if that is given."""

    text: str
    line: Line
    key: str
    to: Line | None = None
    at_least: float | None = None
    at_most: float | None = None

    def value(self, results: Results) -> float | None:
        """Returns the measured value or ratio, or None if it was not measured."""
        value = results.get(self.line.name, {}).get(self.key)
        if value is None or self.to is None:
            return value
        base = results.get(self.to.name, {}).get(self.key)
        return value / base if base else None

    def holds(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (
            self.at_most is None or value <= self.at_most
        )


@dataclass(frozen=True, slots=True)
class Suite:
    """A benchmark: a command that measures its lines in one run."""

    name: str
    """Its section in `last.json`."""
    lines: tuple[Line, ...]
    columns: tuple[Column, ...]
    comparisons: tuple[Comparison, ...]
    claims: tuple[Claim, ...]

    def ratios(self, results: Results) -> dict[str, dict[str, float]]:
        """Returns each line's ratios, by the names of line and comparison."""
        found = {
            name: {
                each.name: ratio
                for each in self.comparisons
                if (ratio := each.of(measured, results)) is not None
            }
            for name, measured in results.items()
        }
        return {name: ratios for name, ratios in found.items() if ratios}

    def claimed(self, results: Results) -> list[tuple[Claim, float]]:
        """Returns the claims whose lines were measured, with the measured values."""
        return [(each, value) for each in self.claims if (value := each.value(results)) is not None]


def medians(runs: Iterable[Measured]) -> Measured:
    """Returns the median of each value that all runs have measured."""
    every = list(runs)
    keys = [key for key in every[0] if all(isinstance(run.get(key), int | float) for run in every)]
    return {key: median(run[key] for run in every) for key in keys}
