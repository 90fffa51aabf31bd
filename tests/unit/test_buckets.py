"""Percentiles read from buckets are within the documented error; windows are parsed as requested."""

from __future__ import annotations

import math
import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from shop.monitoring.buckets import LARGEST_ERROR, Durations, durations
from shop.monitoring.window import parse


def test_percentiles_and_mean_are_within_the_documented_error() -> None:
    chance = random.Random(7)
    seconds = sorted(chance.lognormvariate(-2, 1.5) for _ in range(5000))
    found = durations(Counter(math.floor(math.log(each) * 20) for each in seconds))
    exact = {
        "mean_ms": sum(seconds) / len(seconds),
        "p50_ms": seconds[2499],
        "p95_ms": seconds[4749],
        "p99_ms": seconds[4949],
    }
    for name, value in exact.items():
        assert getattr(found, name) == pytest.approx(value * 1000, rel=LARGEST_ERROR), name
    assert LARGEST_ERROR < 0.026
    assert durations({}) == Durations()


@pytest.mark.parametrize(
    ("asked", "ago"), [("10m", timedelta(minutes=10)), ("24h", timedelta(days=1)), ("7d", timedelta(days=7))]
)
def test_windows_that_end_now(asked: str, ago: timedelta) -> None:
    now = datetime(2031, 2, 3, 9, 30, tzinfo=UTC)
    window = parse(asked).at(now)
    assert (window.since, window.until) == (now - ago, None)


def test_windows_from_and_to() -> None:
    window = parse("2031-02-03T09:30/2031-02-03T11:00:00+01:00")
    assert (window.since, window.until) == (
        datetime(2031, 2, 3, 9, 30, tzinfo=UTC),
        datetime(2031, 2, 3, 10, tzinfo=UTC),
    )
    assert parse("all").since is None
    assert parse("/2031-02-03").until == datetime(2031, 2, 3, tzinfo=UTC)
    for wrong in ("", "10", "10y", "x/y", "2031-02-03/2031-02-02"):
        with pytest.raises(ValueError, match=r".+"):
            parse(wrong)
