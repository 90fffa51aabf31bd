"""The benchmarks' arithmetic, their tables in 80 columns, and the last run that is saved."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import last
from benchmarks.followers import followers
from benchmarks.peers.suite import SUITE as PEERS
from benchmarks.report import report
from benchmarks.suite import ORDERS_PER_SECOND, P50, Claim, Column, Comparison, Line, Measured, Suite, medians
from benchmarks.tables import WIDTH, number, table
from benchmarks.throughput import SUITE

OURS = Line("ours", "pending", 100, 10)
SLOW = Line("slow", "floor", 100, 10)
ALONE = Line("alone", "alone", 100, 10)
FEW = Suite(
    name="few",
    lines=(OURS, SLOW, ALONE),
    columns=(Column("orders/s", ORDERS_PER_SECOND), Column("MB", "peak_memory_mb")),
    comparisons=(Comparison("÷ slow", SLOW), Comparison("p50 ÷\nslow", SLOW, P50)),
    claims=(
        Claim("ours is faster", OURS, ORDERS_PER_SECOND, SLOW, at_least=50),
        Claim("ours is small", OURS, "peak_memory_mb", at_most=100),
        Claim("alone is as quick", ALONE, P50, SLOW, at_most=2),
    ),
)
RESULTS: dict[str, Measured] = {
    "ours": {ORDERS_PER_SECOND: 3000.0, "peak_memory_mb": 160.0},
    "slow": {ORDERS_PER_SECOND: 60.0, P50: 10.0},
    "alone": {P50: 20.0},
}
MACHINE = {
    "processor": "A Processor With a Long Name " * 3,
    "cores": "2",
    "system": "Linux",
    "Python": "3.11",
}


def test_each_line_is_divided_by_the_one_it_is_compared_with() -> None:
    assert FEW.ratios(RESULTS) == {
        "ours": {"÷ slow": 50},
        "slow": {"÷ slow": 1, "p50 ÷ slow": 1},
        "alone": {"p50 ÷ slow": 2},
    }


def test_a_claim_holds_up_to_its_limit() -> None:
    values = {claim.text: (value, claim.holds(value)) for claim, value in FEW.claimed(RESULTS)}
    assert values == {
        "ours is faster": (50, True),
        "ours is small": (160, False),
        "alone is as quick": (2, True),
    }
    slower = {**RESULTS, "ours": {ORDERS_PER_SECOND: 2999.0}}
    assert [claim.holds(value) for claim, value in FEW.claimed(slower)] == [False, True]


def test_a_line_that_was_not_measured_makes_no_claim() -> None:
    assert FEW.claimed({"ours": RESULTS["ours"]}) == [(FEW.claims[1], 160)]


def test_a_claim_that_does_not_hold_is_printed_as_such() -> None:
    printed = report(FEW, RESULTS, MACHINE, {})
    (line,) = [line for line in printed.splitlines() if line.startswith("ours is small")]
    assert line.split()[-1] == "FAILS"
    assert printed.count("holds") == 2


def test_the_median_of_each_value_counts() -> None:
    runs: list[Measured] = [{"a": 1, "b": 9}, {"a": 5, "b": 2}, {"a": 3, "b": 4, "other": 1}]
    assert medians(runs) == {"a": 3, "b": 4}


def test_only_ratios_are_saved_and_they_are_compared_with(tmp_path: Path) -> None:
    file = tmp_path / "last.json"
    last.save(SUITE, {}, MACHINE, file)
    last.save(FEW, RESULTS, MACHINE, file)
    assert json.loads(file.read_text())["few"] == {
        "machine": MACHINE,
        "ratios": FEW.ratios(RESULTS),
        "claims": {"ours is faster": 50, "alone is as quick": 2},
    }
    faster = {**RESULTS, "ours": {ORDERS_PER_SECOND: 6000.0}}
    printed = report(FEW, faster, MACHINE, last.read(FEW, file))
    (compared,) = [line for line in printed.split("Ratios")[1].splitlines() if line.startswith("ours")]
    assert compared.split() == ["ours", "100", "50"]


@pytest.mark.parametrize("suite", [SUITE, PEERS], ids=lambda suite: suite.name)
def test_every_name_fits_in_80_columns(suite: Suite) -> None:
    keys = {ORDERS_PER_SECOND, P50, *(column.key for column in suite.columns)}
    results = {line.name: dict.fromkeys(keys, 54321.9) for line in suite.lines}
    before = {
        "machine": MACHINE,
        "ratios": suite.ratios(results),
        "claims": {claim.text: value for claim, value in suite.claimed(results)},
    }
    printed = report(suite, results, MACHINE, before).splitlines()
    assert max(map(len, printed)) <= WIDTH
    assert [line.name for line in suite.lines if not any(row.startswith(line.name) for row in printed)] == []


def test_a_long_name_is_wrapped_between_words() -> None:
    printed = table("Title", ["", "orders/s\nto last mail"], [["many " * 20, "1"], ["one", "1,234,567"]])
    rows = printed.splitlines()
    assert all(len(row) <= WIDTH for row in rows)
    assert sum(row.count("many") for row in rows) == 20
    assert rows[-1].split() == ["one", "1,234,567"]


def test_columns_without_room_for_names_are_refused() -> None:
    with pytest.raises(ValueError, match="leave 8 characters"):
        table("Title", ["", "x" * 70], [["name", "1"]])


def test_processes_begin_when_all_are_ready_and_one_that_fails_is_noticed() -> None:
    script = "from benchmarks.followers import done, follow; follow(); done()"
    with followers([sys.executable, "-c", script], 2) as others:
        others.begin()
        others.wait()
    script = "from benchmarks.followers import follow; follow(); raise SystemExit('failed')"
    with followers([sys.executable, "-c", script], 1) as others:
        others.begin()
        with pytest.raises(RuntimeError, match="failed"):
            others.wait()


@pytest.mark.parametrize(
    ("value", "printed"),
    [(None, ""), (0.0, "0"), (0.01234, "0.0123"), (1.2345, "1.23"), (99.96, "100"), (1234.5, "1,234")],
)
def test_numbers_have_three_digits(value: float | None, printed: str) -> None:
    assert number(value) == printed
