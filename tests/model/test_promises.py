"""Promises 1 to 5 of the saga against the real code, the real database and any sequence of what can happen to its workers.

`make model` looks longer, with other histories each time; what it finds it prints, as steps and as a line to run it again.
"""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import settings as rounds
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import AnyHistory
from tests.model.world import World


def test_no_history_breaks_a_promise(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(AnyHistory, "world", world, raising=False)
    chosen = rounds.get_profile(os.environ.get("MODEL_PROFILE", "model"))
    try:
        run_state_machine_as_test(AnyHistory, settings=chosen)
    finally:
        with capsys.disabled():
            sys.stdout.write(f"\n{world.tally}\n")
    tally = world.tally
    assert tally.histories >= chosen.max_examples
    assert tally.switches > tally.histories, "workers hardly ever took turns"
    assert tally.crashes > tally.histories / 10
