"""Prints what a benchmark measured: the machine, the lines, the claims, and the last committed ratios."""

from __future__ import annotations

import textwrap
from typing import Any

from benchmarks.suite import Claim, Results, Suite
from benchmarks.tables import WIDTH, number, table


def report(suite: Suite, results: Results, machine: dict[str, str], last: dict[str, Any]) -> str:
    """Returns the run as text, at most 80 columns wide."""
    parts = [_machine(machine), _lines(suite, results)]
    if suite.claimed(results):
        parts.append(_claims(suite, results, last))
    if last and suite.ratios(results):
        parts.append(_compared(suite, results, last))
    return "\n".join(parts)


def _machine(machine: dict[str, str]) -> str:
    wide = max(map(len, machine))
    return "".join(_wrapped(f"{name:<{wide}}  {value}", wide + 2) for name, value in machine.items())


def _wrapped(line: str, indent: int = 0) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * indent, drop_whitespace=True) + "\n"


def _lines(suite: Suite, results: Results) -> str:
    columns = [each for each in suite.columns if any(each.key in line for line in results.values())]
    ratios = suite.ratios(results)
    comparisons = [each for each in suite.comparisons if any(each.name in line for line in ratios.values())]
    head = ["", *(each.head for each in columns), *(each.head for each in comparisons)]
    rows = [
        [
            name,
            *(number(measured.get(each.key)) for each in columns),
            *(number(ratios.get(name, {}).get(each.name)) for each in comparisons),
        ]
        for name, measured in results.items()
        if any(each.key in measured for each in columns)
    ]
    return table("Measured", head, rows)


def _claims(suite: Suite, results: Results, last: dict[str, Any]) -> str:
    before = last.get("claims", {})
    rows = [
        [
            claim.text,
            number(value),
            number(before.get(claim.text)),
            _limit(claim),
            "holds" if claim.holds(value) else "FAILS",
        ]
        for claim, value in suite.claimed(results)
    ]
    return table("Claims", ["", "now", "last", "limit", ""], rows)


def _limit(claim: Claim) -> str:
    return f"≥ {number(claim.at_least)}" if claim.at_least is not None else f"≤ {number(claim.at_most)}"


def _compared(suite: Suite, results: Results, last: dict[str, Any]) -> str:
    now, before = suite.ratios(results), last.get("ratios", {})
    head = ["", *(f"{each.head}\n{when}" for each in suite.comparisons for when in ("now", "last"))]
    rows = [
        [
            name,
            *(
                number(ratios.get(name, {}).get(each.name))
                for each in suite.comparisons
                for ratios in (now, before)
            ),
        ]
        for name in now
    ]
    where = "Last: " + ", ".join(f"{name} {value}" for name, value in last.get("machine", {}).items())
    return table("Ratios, compared with the last committed run", head, rows) + "\n" + _wrapped(where)
