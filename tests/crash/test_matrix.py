"""Every point at which a worker can die, one death at a time. `make crash-test` runs every combination; `make test` each point once."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.crash.matrix import FIRST, RECOVERIES, Case, Result, Way, all_passed, cases, run_all
from tests.crash.site import Site
from tests.crash.summary import Line, Summary

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def ways(site: Site) -> list[tuple[Way, Sequence[str]]]:
    return all_passed(site, FIRST)


@pytest.fixture(scope="module")
def recoveries(site: Site) -> list[tuple[Way, Sequence[str]]]:
    return all_passed(site, RECOVERIES)


def test_every_declared_point_is_on_some_way(
    site: Site, ways: list[tuple[Way, Sequence[str]]], recoveries: list[tuple[Way, Sequence[str]]]
) -> None:
    """A new step brings its points with it; one that no way leads to would never be tried."""
    reached = {point for _, points in [*ways, *recoveries] for point in points}
    assert set(site.nursery.process("declared").wait(30)) - reached == set()


def test_a_worker_dies_at_every_point(
    site: Site, ways: list[tuple[Way, Sequence[str]]], every: bool, summary: Summary, capsys: pytest.CaptureFixture[str]
) -> None:
    _judge("A worker dies", _run(site, list(cases(ways, every=every)), capsys), summary)


def test_a_recovery_dies_at_every_point(
    site: Site,
    ways: list[tuple[Way, Sequence[str]]],
    recoveries: list[tuple[Way, Sequence[str]]],
    every: bool,
    summary: Summary,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In short: at each point where only a recovery gets to, and at every third of the others."""
    others = sorted({point for _, points in ways for point in points})
    known = set(others) - set(others[::3])
    _judge("A recovery dies", _run(site, list(cases(recoveries, every=every, but=known)), capsys), summary)


def _run(site: Site, chosen: Sequence[Case], capsys: pytest.CaptureFixture[str]) -> list[Result]:
    """Says how far it is, and each discrepancy at once: all combinations take long."""
    done = itertools.count(1)

    def tell(result: Result) -> None:
        number = next(done)
        with capsys.disabled():
            if result.problem:
                print(f"\n{result.case}: {result.problem}")
            if number % 10 == 0 or number == len(chosen):
                print(f"\r{number} of {len(chosen)} kills ", end="", flush=True)

    return run_all(site, chosen, tell)


def _judge(title: str, results: Sequence[Result], summary: Summary) -> None:
    assert results
    problems = [f"{result.case}: {result.problem}" for result in results if result.problem]
    points = len({result.case.point for result in results})
    outcomes = Counter(str(outcome) for result in results for outcome in result.outcomes)
    slowest = max(result.recovery_seconds for result in results)
    summary.lines.append(Line(title, points, len(results), outcomes, sum(outcomes.values()), slowest, len(problems)))
    assert not problems, f"{len(problems)} of {len(results)} cases:\n" + "\n\n".join(problems[:10])


def test_the_judge_can_say_no() -> None:
    case = Case("before nothing", FIRST[0], "remembers")
    with pytest.raises(AssertionError, match="1 of 1 cases"):
        _judge("Nobody dies", [Result(case, "the point was not reached", 0)], Summary())
