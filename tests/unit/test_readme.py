"""README says what there is."""

from __future__ import annotations

import re
from pathlib import Path

from flows.order_saga import ORDER_SAGA

HOME = Path(__file__).resolve().parent.parent.parent
README = (HOME / "README.md").read_text(encoding="utf-8")


def test_every_step_is_in_the_table_with_its_kind_and_its_compensation() -> None:
    for step in ORDER_SAGA:
        row = next(line for line in README.splitlines() if line.startswith(f"| `{step.name}` |"))
        assert f"| {step.kind} |" in row
        assert step.undo is None or f"`{step.undo.__name__}`" in row  # type: ignore[attr-defined]


def test_everything_that_it_leads_to_is_there() -> None:
    named = re.findall(r"\]\(([^)#\s]+)\)", README) + re.findall(r'src="([^"]+)"', README)
    files = [name for name in named if "://" not in name]
    assert len(files) > 3
    assert [name for name in files if not (HOME / name).exists()] == []
