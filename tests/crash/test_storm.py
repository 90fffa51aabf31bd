"""Random kills, many orders; `make crash-test` runs a thousand."""

from __future__ import annotations

import pytest

from tests.crash.site import Site
from tests.crash.storm import SLOWEST_RECOVERY, storm
from tests.crash.summary import Line, Summary

pytestmark = pytest.mark.alone


def test_random_kills(site: Site, every: bool, request: pytest.FixtureRequest, summary: Summary) -> None:
    orders = request.config.getoption("--orders") or (1000 if every else 60)
    seed = request.config.getoption("--seed")
    report = storm(site, orders=orders, seed=seed, pause=1.0 if every else 0.6)
    found = len(report.discrepancies)
    summary.lines.append(
        Line(
            "Random kills",
            None,
            report.kills,
            report.outcomes,
            report.recovered,
            report.longest_recovery,
            found,
            report.seed,
        )
    )
    assert report.recovered > 0, "nobody died in the middle of anything"
    assert every or report.longest_recovery < SLOWEST_RECOVERY
    assert report.discrepancies == []
