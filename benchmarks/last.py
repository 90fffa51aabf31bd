"""The last committed numbers, in `last.json`: ratios between lines of one run, never times, because machines
differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.suite import Results, Suite

FILE = Path(__file__).with_name("last.json")


def read(suite: Suite, file: Path = FILE) -> dict[str, Any]:
    """Returns the suite's last run: machine, ratios, claims. Empty if there is none."""
    every: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    return every.get(suite.name, {})


def save(suite: Suite, results: Results, machine: dict[str, str], file: Path = FILE) -> None:
    """Replaces the suite's last run. What is no ratio is not saved."""
    every = json.loads(file.read_text()) if file.exists() else {}
    every[suite.name] = {
        "machine": machine,
        "ratios": {
            line: {name: _digits(ratio) for name, ratio in ratios.items()}
            for line, ratios in suite.ratios(results).items()
        },
        "claims": {claim.text: _digits(value) for claim, value in suite.claimed(results) if claim.to},
    }
    file.write_text(json.dumps(every, indent=2, ensure_ascii=False) + "\n")


def _digits(value: float) -> float:
    return float(f"{value:.3g}")
