"""Random kills, many orders; `make crash-test` runs a thousand."""

from __future__ import annotations

import pytest

from tests.crash.site import Site
from tests.crash.storm import storm


def test_random_kills(site: Site, every: bool, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    orders = request.config.getoption("--orders") or (1000 if every else 60)
    seed = request.config.getoption("--seed")
    report = storm(site, orders=orders, seed=seed, pause=1.0 if every else 0.6)
    with capsys.disabled():
        outcomes = ", ".join(f"{n} {outcome}" for outcome, n in report.outcomes.most_common())
        lines = {
            "orders": f"{report.orders}: {outcomes}",
            "kills": report.kills,
            "recovered": f"{report.recovered} orders, the longest after {report.longest_recovery:.1f} s",
            "discrepancies": len(report.discrepancies),
            "seed": f"{report.seed} (again: --seed {report.seed})",
        }
        print(f"\nRandom kills in {report.seconds:.0f} s\n" + "\n".join(f"  {name:<14} {value}" for name, value in lines.items()))
    assert report.kills > 0
    assert report.discrepancies == []
