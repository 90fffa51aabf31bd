"""Durations as counts in buckets, for percentiles in one pass over any number of rows, without sorting.

A bucket is 5 % wide (twenty per factor of e), so a percentile or mean is at most 2.6 % off. The database
counts: the bucket of a row is a generated column (`cell`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from shop.values.frozen import Frozen

_PER_FACTOR_OF_E = 20
LARGEST_ERROR = math.exp(0.5 / _PER_FACTOR_OF_E) - 1
"""Limits the relative error of a percentile or mean."""


def bucket_sql(begun: str, ended: str) -> str:
    """Returns the SQL that computes the bucket from two times; NULL without an end. Covers a tenth of a
    millisecond to thirty years."""
    seconds = f"date_part('epoch', {ended} - {begun})"
    return f"floor(ln(least(greatest({seconds}, 0.0001), 1e9)) * {_PER_FACTOR_OF_E})::smallint"


class Durations(Frozen):
    """Durations in milliseconds, each within `LARGEST_ERROR`. None if there were none."""

    mean_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None


def durations(counts: Mapping[int, int]) -> Durations:
    """Summarizes the counts by bucket."""
    total = sum(counts.values())
    if not total:
        return Durations()
    mean = sum(middle_ms(bucket) * count for bucket, count in counts.items()) / total
    p50, p95, p99 = (_percentile(counts, total, share) for share in (0.5, 0.95, 0.99))
    return Durations(mean_ms=mean, p50_ms=p50, p95_ms=p95, p99_ms=p99)


def _percentile(counts: Mapping[int, int], total: int, share: float) -> float:
    """Returns the smallest duration that at least this share of all do not exceed."""
    wanted, seen = math.ceil(total * share), 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= wanted:
            return middle_ms(bucket)
    raise AssertionError("the counts do not sum up")


def middle_ms(bucket: int) -> float:
    """Returns the geometric middle of a bucket, in milliseconds."""
    return math.exp((bucket + 0.5) / _PER_FACTOR_OF_E) * 1000
