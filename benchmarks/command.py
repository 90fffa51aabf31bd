"""Runs a suite: starts the servers, measures each line in a process of its own, prints the report."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks import last, machine
from benchmarks.report import report
from benchmarks.suite import Line, Measured, Results, Suite, medians
from benchmarks.tables import number
from deployments.local.stack import HOME, Options, Stack

_SECONDS = 900
"""The time limit of one measurement."""


def run(
    suite: Suite,
    *,
    prepare: Callable[[Stack], Mapping[str, str]] | None = None,
    versions: Mapping[str, str] | None = None,
) -> int:
    """Runs the command. `prepare` is called when the servers run, and returns more of the lines' environment;
    `versions` names what the run uses besides what every run uses. Exit codes: 0, every claim holds, or
    `--quick`; 1, a claim does not hold."""
    parser = argparse.ArgumentParser(
        description=f"Measures what benchmarks/README.md says of `make {suite.name}`."
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--quick", action="store_true", help="few orders, and exit code 0 in any case")
    parser.add_argument(
        "--only",
        metavar="TEXT",
        action="append",
        help="only the lines whose name contains this text, or another",
    )
    parser.add_argument("--save", action="store_true", help="save the ratios in benchmarks/last.json")
    parser.add_argument("--rounds", type=int, metavar="N", help="measure each line at most N times")
    options = parser.parse_args()
    only = options.only or [""]
    lines = [
        line
        for line in suite.lines
        if any(text in line.name for text in only) and (line.quick or not options.quick)
    ]
    if not lines:
        parser.error(f"no line's name contains {' or '.join(only)}")
    if options.save and (options.quick or options.only):
        parser.error("only a complete run can be saved")
    rounds = 1 if options.quick else options.rounds or max(line.runs for line in lines)
    results, about = _measure(lines, prepare, rounds, quick=options.quick)
    about |= versions or {}
    claimed = suite.claimed(results)
    if options.json:
        claims = [
            {"claim": claim.text, "measured": value, "at_least": claim.at_least, "at_most": claim.at_most}
            for claim, value in claimed
        ]
        every = {"machine": about, "measured": results, "ratios": suite.ratios(results), "claims": claims}
        sys.stdout.write(json.dumps(every, indent=2) + "\n")
    else:
        sys.stdout.write("\n" + report(suite, results, about, last.read(suite)))
    if options.save:
        last.save(suite, results, about)
    return 0 if options.quick or all(claim.holds(value) for claim, value in claimed) else 1


def _measure(
    lines: Sequence[Line],
    prepare: Callable[[Stack], Mapping[str, str]] | None,
    rounds: int,
    *,
    quick: bool,
) -> tuple[Results, dict[str, str]]:
    busy = machine.load()
    before = f"{busy:.2f} per core before the run{', too much for numbers to rely on' * (busy > 0.5)}"
    with tempfile.TemporaryDirectory(prefix="order-saga-bench-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL runs as another user when this is root
        var = Path(folder) / "var"
        with Stack(Options(var_dir=var, deployments=False, worker=False)) as stack:
            environment = {
                **os.environ,
                **stack.environment,
                **(prepare(stack) if prepare else {}),
                "VAR_DIR": str(var),
                "PREFECT_LOGGING_LEVEL": "ERROR",
                "PYTHONPATH": str(HOME),
            }
            about = {**machine.describe(stack.database_url), "load": before}
            return _rounds(lines, environment, rounds, quick=quick), about


def _rounds(lines: Sequence[Line], environment: dict[str, str], rounds: int, *, quick: bool) -> Results:
    """Measures each line once, then those with more runs once more, and so on: a slow minute of the machine
    then meets all of them."""
    runs: dict[str, list[Measured]] = defaultdict(list)
    for i in range(rounds):
        for line in lines:
            if i < line.runs:
                sys.stderr.write(f"{line.name}, {i + 1} of {min(rounds, line.runs)}: ")
                measured = _run(line, environment, quick=quick)
                runs[line.name].append(measured)
                sys.stderr.write(", ".join(f"{number(measured[key])} {key}" for key in measured) + "\n")
    return {name: medians(measured) for name, measured in runs.items()}


def _run(line: Line, environment: dict[str, str], *, quick: bool) -> Measured:
    process = subprocess.Popen(
        line.command(quick=quick),
        env=environment,
        cwd=HOME,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=_SECONDS)
    finally:
        with suppress(ProcessLookupError):  # what it started, too, also when this is interrupted
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode:
        raise RuntimeError(f"{line.name} failed:\n{errors[-3000:]}")
    measured: Measured = json.loads(output.strip().splitlines()[-1])
    return measured
