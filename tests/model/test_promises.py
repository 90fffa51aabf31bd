"""Promises 1 to 5 of the saga against the real code, the real database and any sequence of what can happen to its workers.

`make model` looks longer, with other histories each time. What it finds it prints: the steps, what was passed, and the seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import seed
from hypothesis.stateful import run_state_machine_as_test

from tests.model.drawing import ALWAYS_THE_SAME, SHARES, others
from tests.model.machine import AnyHistory
from tests.model.world import World


def test_no_history_breaks_a_promise(
    share: int, world: World, monkeypatch: pytest.MonkeyPatch, tell: Callable[[str], None], pytestconfig: pytest.Config
) -> None:
    monkeypatch.setattr(AnyHistory, "world", world, raising=False)
    histories, number = pytestconfig.getoption("--histories"), pytestconfig.getoption("--seed")
    chosen = others(-(-histories // SHARES)) if histories else ALWAYS_THE_SAME
    if histories:
        monkeypatch.setattr(AnyHistory, "_hypothesis_internal_use_seed", None, raising=False)  # taken back after the test
        seed(number * SHARES + share)(AnyHistory)
    begun = time.monotonic()
    try:
        run_state_machine_as_test(AnyHistory, settings=chosen)
    finally:
        again = f" (the same again: make model HISTORIES={histories} SEED={number})" if histories else ""
        tell(f"{world.tally}; in {time.monotonic() - begun:.0f} s{again}")
    tally = world.tally
    assert tally.histories >= chosen.max_examples
    assert len(tally.different) > 0.95 * tally.histories, "the same interleavings again and again"
    assert tally.switches > tally.histories, "workers hardly ever took turns"
    assert tally.crashes > tally.histories / 10
    assert tally.overtaken > tally.histories / 30
