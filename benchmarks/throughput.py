"""Measures orders per second and latencies of both lanes, of intake, and of the same SQL without
orchestration, in one run.

    python -m benchmarks.throughput            # a table
    python -m benchmarks.throughput --json     # the same as JSON
    python -m benchmarks.throughput --quick    # few orders: checks that it works, without meaningful numbers

Machines are shared and noisy: compare the lines of one run with each other. Every line is measured in its own
process, like a worker's run. PostgreSQL, the Prefect server and the sandbox gateway are those of `make run`,
in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deployments.local.stack import HOME, Options, Stack

Results = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table: a measurement."""

    name: str
    kind: str
    number: int
    quick: int
    gateway: str = "in-process"
    runs: int = 1
    """How often it is measured; the median run is shown, because shared machines are slow at times."""


LINES = (
    Line("submit_orders", "submit", 10_000, 500),
    Line("process_order, one after the other", "own_runs", 20, 3),
    Line("one order alone through a running consumer", "alone", 60, 5),
    Line("pending lane", "pending", 2_000, 200, runs=3),
    Line("pending lane, sandbox gateway over HTTP", "pending", 1_000, 100, "sandbox"),
    Line("process_order, sandbox gateway over HTTP", "own_runs", 10, 2, "sandbox"),
    Line("floor: the same steps without Prefect", "floor", 2_000, 200, runs=3),
)


@dataclass(frozen=True, slots=True)
class Bar:
    """A claimed limit, and the measured value."""

    claim: str
    measured: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool:
        return (self.at_least is None or self.measured >= self.at_least) and (
            self.at_most is None or self.measured <= self.at_most
        )


def bars(results: Results) -> list[Bar]:
    """Returns the claims with the measured values."""
    lane, own, alone, intake = (results[line.name] for line in (LINES[3], LINES[1], LINES[2], LINES[0]))
    return [
        Bar("pending lane, orders/s", lane["orders_per_second"], at_least=1_000),
        Bar(
            "pending lane / process_order", lane["orders_per_second"] / own["orders_per_second"], at_least=200
        ),
        Bar("one order alone through a running consumer, p50 ms", alone["p50_ms"], at_most=150),
        Bar("submit_orders of one, p50 ms", intake["p50_ms"], at_most=10),
        Bar("submit_orders of 10 000, orders/s", intake["orders_per_second"], at_least=5_000),
        Bar(
            "peak memory of the worker, MB",
            max(r.get("peak_memory_mb", 0) for r in results.values()),
            at_most=400,
        ),
    ]


def measure(*, quick: bool, console: Console) -> Results:
    """Measures every line."""
    with tempfile.TemporaryDirectory(prefix="order-saga-bench-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL runs as another user when this is root
        return _measure(Path(folder) / "var", quick=quick, console=console)


def _measure(var: Path, *, quick: bool, console: Console) -> Results:
    results: Results = {}
    with Stack(_options(var)) as stack:
        environment = {
            **os.environ,
            **stack.environment,
            "VAR_DIR": str(var),
            "PREFECT_LOGGING_LEVEL": "ERROR",
            "PYTHONPATH": str(HOME),
        }
        for line in LINES:
            with console.status(f"{line.name} ..."):
                number = line.quick if quick else line.number
                runs = [_run(line, number, environment) for _ in range(1 if quick else line.runs)]
            runs.sort(key=lambda run: run.get("orders_per_second", 0))
            results[line.name] = runs[len(runs) // 2]
    return results


def _options(folder: Path) -> Options:
    return Options(var_dir=folder, deployments=False, worker=False)


def _run(line: Line, number: int, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.lanes", line.kind, str(number), "--gateway", line.gateway]
    run = subprocess.run(
        command, env=environment, cwd=HOME, capture_output=True, text=True, timeout=900, check=False
    )
    if run.returncode:
        raise RuntimeError(f"{line.name} failed:\n{run.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    return result


def show(console: Console, results: Results) -> None:
    """Prints the measurements, and the claims below."""
    table = Table(title="Throughput", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("", "orders", "orders/s", "orders/s, mails sent", "p50 ms", "p99 ms", "peak MB"):
        table.add_column(column, justify="left" if not column else "right")
    for name, r in results.items():
        keys = (
            "orders",
            "orders_per_second",
            "orders_per_second_mailed",
            "p50_ms",
            "p99_ms",
            "peak_memory_mb",
        )
        table.add_row(
            name,
            *(f"{r[key]:,.1f}" if isinstance(r.get(key), float) else str(r.get(key) or "") for key in keys),
        )
    claims = Table(title="Claims", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("", "measured", "bar", ""):
        claims.add_column(column, justify="left" if not column else "right")
    for bar in bars(results):
        limit = f"at least {bar.at_least:,.0f}" if bar.at_least else f"at most {bar.at_most:,.0f}"
        claims.add_row(
            bar.claim,
            f"{bar.measured:,.1f}",
            limit,
            Text("✓", "green") if bar.holds else Text("✗", "bold red"),
        )
    console.print(table, claims)


def main() -> int:
    """Runs the command. Exit codes: 0, every claim holds, or `--quick`; 1, a claim does not hold."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput", description="Measures the lanes."
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="few orders, and exit code 0 in any case")
    options = parser.parse_args()
    console = Console(stderr=options.json)
    results = measure(quick=options.quick, console=console)
    if options.json:
        claims = [
            {"claim": b.claim, "measured": b.measured, "at_least": b.at_least, "at_most": b.at_most}
            for b in bars(results)
        ]
        sys.stdout.write(json.dumps({"measured": results, "claims": claims}, indent=2) + "\n")
    else:
        show(console, results)
    return 0 if options.quick or all(bar.holds for bar in bars(results)) else 1


if __name__ == "__main__":
    sys.exit(main())
