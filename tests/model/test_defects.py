"""The model can fail: each of these mistakes is found by the search that finds nothing in the real code."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import Phase
from hypothesis import settings as rounds
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from tests.model.defects import HIDDEN, PLAIN, Defect
from tests.model.drawing import ALWAYS_THE_SAME
from tests.model.machine import AnyHistory
from tests.model.witness import UNFORESEEN
from tests.model.world import Violation, World


def _each(defects: Mapping[Defect, Sequence[str]], *marks: pytest.MarkDecorator) -> list[Any]:
    return [
        pytest.param(*each, marks=marks, id=each[0].__name__.replace("_", " ")) for each in defects.items()
    ]


@pytest.mark.parametrize(("defect", "expected"), [*_each(PLAIN), *_each(HIDDEN, pytest.mark.slow)])
def test_the_model_finds(
    defect: Defect,
    expected: Sequence[str],
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    report_line: Callable[[str], None],
) -> None:
    """What it finds is what the mistake leads to, and not that the mistake was badly made."""
    monkeypatch.setattr(AnyHistory, "world", world, raising=False)
    search = rounds(ALWAYS_THE_SAME, max_examples=4_000, phases=[Phase.generate], report_multiple_bugs=False)
    with defect(), pytest.raises((Violation, Flaky)):
        run_state_machine_as_test(AnyHistory, settings=search)
    assert world.violations, "it failed for another reason"
    found = world.violations[0]
    report_line(f"after {world.outcome_counter.histories} histories: {found[:200]}")
    assert any(re.search(each, found) for each in expected), found
    assert UNFORESEEN not in found or any(UNFORESEEN in each for each in expected), found
