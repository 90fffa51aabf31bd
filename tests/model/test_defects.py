"""The model can fail: each of these mistakes is found by the search that finds nothing in the real code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import Phase
from hypothesis import settings as rounds
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from tests.model.defects import HIDDEN, PLAIN, Defect
from tests.model.drawing import ALWAYS_THE_SAME
from tests.model.machine import AnyHistory
from tests.model.world import Violation, World


@pytest.mark.parametrize(
    "defect",
    [*PLAIN, *(pytest.param(defect, marks=pytest.mark.slow) for defect in HIDDEN)],
    ids=lambda defect: defect.__name__.replace("_", " "),
)
def test_the_model_finds(defect: Defect, world: World, monkeypatch: pytest.MonkeyPatch, tell: Callable[[str], None]) -> None:
    monkeypatch.setattr(AnyHistory, "world", world, raising=False)
    search = rounds(ALWAYS_THE_SAME, max_examples=1_200, phases=[Phase.generate], report_multiple_bugs=False)
    with defect(), pytest.raises((Violation, Flaky)):
        run_state_machine_as_test(AnyHistory, settings=search)
    assert world.violations, "it failed for another reason"
    tell(f"after {world.tally.histories} histories: {world.violations[0][:200]}")
