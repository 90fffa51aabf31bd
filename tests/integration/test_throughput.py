"""The benchmark runs, in its short form,
and the batch lane is worth having. How fast it is: `make bench`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent.parent


@pytest.mark.alone
def test_the_short_form() -> None:
    command = [sys.executable, "-m", "benchmarks.throughput", "--quick", "--json"]
    run = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=900, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    measured = json.loads(run.stdout)["measured"]
    lane, own = measured["batch lane"], measured["process_order"]
    assert lane["orders_per_second"] > 10 * own["orders_per_second"]
    assert max(line.get("peak_memory_mb", 0) for line in measured.values()) < 400


@pytest.mark.slow
@pytest.mark.alone
def test_workers_at_rest_cost_little() -> None:
    command = [sys.executable, "-m", "benchmarks.idle", "idle", "30"]
    run = subprocess.run(command, cwd=HOME, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    measured = json.loads(run.stdout)
    assert 0 < measured["steady_cores"] < measured["cores"] < 0.15
    assert measured["runs_per_day"] < 500
