"""Durations as counts in cells, of which percentiles are read: one pass over any number of rows, and nothing to sort.

A cell is 5 % wide (twenty to a factor of e), so a percentile is at most 2.6 % off, and so is a mean. The database counts: rows carry
their cell as a generated column (`CELL`), made when they are written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

_A_FACTOR_OF_E = 20
LARGEST_ERROR = math.exp(0.5 / _A_FACTOR_OF_E) - 1
"""Of a percentile or mean, as a share of it."""


def cell_of(begun: str, ended: str) -> str:
    """The SQL that makes a cell of two times; NULL until it has ended. From a tenth of a millisecond to thirty years."""
    seconds = f"date_part('epoch', {ended} - {begun})"
    return f"floor(ln(least(greatest({seconds}, 0.0001), 1e9)) * {_A_FACTOR_OF_E})::smallint"


class Durations(BaseModel):
    """How long things took, in milliseconds; each within `LARGEST_ERROR`. None if there were none."""

    model_config = ConfigDict(frozen=True)

    mean_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None


def durations(counts: Mapping[int, int]) -> Durations:
    """`counts`: how many are in each cell."""
    total = sum(counts.values())
    if not total:
        return Durations()
    mean = sum(_middle(cell) * count for cell, count in counts.items()) / total
    p50, p95, p99 = (_percentile(counts, total, share) for share in (0.5, 0.95, 0.99))
    return Durations(mean_ms=mean, p50_ms=p50, p95_ms=p95, p99_ms=p99)


def _percentile(counts: Mapping[int, int], total: int, share: float) -> float:
    """Of the one that this share of all is not above."""
    wanted, seen = math.ceil(total * share), 0
    for cell in sorted(counts):
        seen += counts[cell]
        if seen >= wanted:
            return _middle(cell)
    raise AssertionError("the counts do not sum up")


def _middle(cell: int) -> float:
    """Milliseconds: as far from the cell's lower end as from its upper, in proportion."""
    return math.exp((cell + 0.5) / _A_FACTOR_OF_E) * 1000
