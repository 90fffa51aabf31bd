"""The model can fail: each of these mistakes is found by a search no longer than the one that finds nothing in the real code."""

from __future__ import annotations

import pytest
from hypothesis import Phase
from hypothesis import settings as rounds
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

from tests.model.defects import DEFECTS, Defect
from tests.model.machine import AnyHistory
from tests.model.world import Violation, World


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__.replace("_", " "))
def test_the_model_finds(defect: Defect, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AnyHistory, "world", world, raising=False)
    search = rounds(rounds.get_profile("model"), phases=[Phase.generate], report_multiple_bugs=False)
    with defect(), pytest.raises((Violation, Flaky)):
        run_state_machine_as_test(AnyHistory, settings=search)
    assert world.violations, "it failed for another reason"
