"""Every point at which a worker can die, one death at a time.

`make crash-test` runs every combination;
`make test` every fourth of the points, `make test-slow` each point once.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.crash.effects import named, names_in
from tests.crash.matrix import (
    FIRST,
    GATEWAYS,
    LANES,
    RECOVERIES,
    Case,
    Result,
    Way,
    all_passed,
    cases,
    run_all,
)
from tests.crash.site import STRIPE, Site
from tests.crash.summary import Line, Summary
from tests.worker_forkserver.forkserver import Forkserver

pytestmark = pytest.mark.alone

Passed = tuple[Way, Sequence[str]]
_FAIR = 0.35
"""Of what two share, each has so much at least."""
_ASIDE = {
    # Alerts read orders, and change none.
    "the commit of alerts",
    "the commit of claiming notices of alerts",
    "the commit of delivered notices of alerts",
    "sending an alert",
    # What retention deletes has ended long ago; an order that is open is not touched.
    "the commit of deleting traces",
    "the commit of erasing customers",
    "deleting customers' files",
    # No worker holds an order whose address changes.
    "the commit of changing an address",
    # Goods arrive without an order.
    "the commit of receiving goods",
}
"""Effects that are not on any order's way."""


@pytest.fixture(scope="module")
def ways(site: Site) -> Sequence[Passed]:
    return all_passed(site, FIRST)


@pytest.fixture(scope="module")
def recoveries(site: Site) -> Sequence[Passed]:
    return all_passed(site, RECOVERIES)


def test_no_declared_point_is_left_out(
    site: Site, ways: Sequence[Passed], recoveries: Sequence[Passed]
) -> None:
    """A new step brings its points with it; one that no case leads to would never be tried."""
    aside = {f"{when} {effect}" for effect in _ASIDE for when in ("before", "after")}
    declared = set(site.forkserver.process("declared").wait(30)) - aside
    for each in (True, False):
        tried = [*_deaths(ways, every=each), *_deaths_in_recovery(ways, recoveries, every=each)]
        assert declared - {case.point for case in tried} == set(), f"every: {each}"


def test_no_effect_in_the_code_is_left_out(running_forkserver: Forkserver) -> None:
    """What these workers never import declares nothing, and would not be missed."""
    declared = {point.removeprefix("before ") for point in running_forkserver.process("declared").wait(30)}
    found = named()
    assert set(found) - declared <= _ASIDE <= set(found)
    assert {name for name, places in found.items() if places > 1} == set(), (
        "a worker would die at one of them only"
    )


def test_effects_are_found_in_code() -> None:
    code = "A, B = (failpoints.failpoint(f'the {what}') for what in ('x', 'y'))\nC = failpoint('z')"
    assert sorted(names_in(code)) == ["the x", "the y", "z"]
    with pytest.raises(AssertionError, match="how is this effect called"):
        list(names_in("A = failpoint(make_a_name())"))


def test_lanes_and_gateways_share_the_points(ways: Sequence[Passed], recoveries: Sequence[Passed]) -> None:
    """Each point once is not each point in the same lane,
    nor before it always with the one gateway and after it with the other."""
    first, recovering = _deaths(ways, every=False), _deaths_in_recovery(ways, recoveries, every=False)
    _assert_shared(LANES, [case for case in first if _lanes_to(case.point, ways) >= set(LANES)])
    _assert_shared(("recover", "pending"), recovering)
    _assert_gateways_shared(first)
    _assert_gateways_shared(recovering)
    assert any(case.gateway == STRIPE for case in first)


def test_any_points_are_shared_out() -> None:
    points = [f"{when} thing {number}" for number in range(30) for when in ("before", "after")]
    invented = [(way, points) for way in FIRST if not way.settings and not way.outside]
    chosen = list(cases(invented, every=False, but=points[:10]))
    assert sorted(case.point for case in chosen) == sorted(points[10:])
    _assert_shared(LANES, chosen)
    _assert_gateways_shared(chosen)


def _lanes_to(point: str, ways: Sequence[Passed]) -> set[str]:
    return {way.lane for way, points in ways if point in points and way.is_about(point)}


def _assert_shared(lanes: Sequence[str], chosen: Sequence[Case]) -> None:
    lots = Counter(case.way.lane for case in chosen)
    assert min(lots[lane] for lane in lanes) >= _FAIR * len(chosen), lots


def _assert_gateways_shared(chosen: Sequence[Case]) -> None:
    for when in ("before", "after"):
        lots = Counter(case.gateway for case in chosen if case.point.startswith(when))
        assert min(lots[gateway] for gateway in GATEWAYS) >= _FAIR * lots.total(), (when, lots)


IN_SHORT = pytest.mark.parametrize(
    "nth", [pytest.param(4, id="fourth"), pytest.param(1, id="each", marks=pytest.mark.slow)]
)


@IN_SHORT
def test_a_worker_dies_at_every_point(
    nth: int,
    site: Site,
    ways: Sequence[Passed],
    every: bool,
    summary: Summary,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _judge("A worker dies", _run(site, _deaths(ways, every=every)[::nth], capsys), summary)


@IN_SHORT
def test_a_recovery_dies_at_every_point(
    nth: int,
    site: Site,
    ways: Sequence[Passed],
    recoveries: Sequence[Passed],
    every: bool,
    summary: Summary,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _judge(
        "A recovery dies",
        _run(site, _deaths_in_recovery(ways, recoveries, every=every)[::nth], capsys),
        summary,
    )


def _deaths(ways: Sequence[Passed], *, every: bool) -> list[Case]:
    return list(cases(ways, every=every))


def _deaths_in_recovery(ways: Sequence[Passed], recoveries: Sequence[Passed], *, every: bool) -> list[Case]:
    """In short: at each point where only a recovery gets to, and at every third of the others."""
    others = sorted({point for _, points in ways for point in points})
    known = set(others) - set(others[::3])
    return list(cases(recoveries, every=every, but=known))


def _run(site: Site, chosen: Sequence[Case], capsys: pytest.CaptureFixture[str]) -> list[Result]:
    """Says how far it is, and each discrepancy at once: all combinations take long."""
    done = itertools.count(1)

    def on_result(result: Result) -> None:
        number = next(done)
        with capsys.disabled():
            if result.problem:
                print(f"\n{result.case}: {result.problem}")
            if number % 10 == 0 or number == len(chosen):
                print(f"\r{number} of {len(chosen)} kills ", end="", flush=True)

    return run_all(site, chosen, on_result)


def _judge(title: str, results: Sequence[Result], summary: Summary) -> None:
    assert results
    problems = [f"{result.case}: {result.problem}" for result in results if result.problem]
    points = len({result.case.point for result in results})
    outcomes = Counter(str(outcome) for result in results for outcome in result.outcomes)
    slowest = max(result.recovery_seconds for result in results)
    summary.lines.append(
        Line(title, points, len(results), outcomes, sum(outcomes.values()), slowest, len(problems))
    )
    assert not problems, f"{len(problems)} of {len(results)} cases:\n" + "\n\n".join(problems[:10])


def test_the_judge_finds_violations() -> None:
    case = Case("before nothing", FIRST[0], "remembers")
    with pytest.raises(AssertionError, match="1 of 1 cases"):
        _judge("Nobody dies", [Result(case, "the point was not reached", 0)], Summary())
