"""Promises 1 to 5 of the saga against the real code,
the real database and any sequence of what can happen to its workers.

`make model` looks longer, with other histories each time.
What it finds it prints: the steps, what was passed, and the seed.
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
    share: int,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    report_line: Callable[[str], None],
    pytestconfig: pytest.Config,
) -> None:
    monkeypatch.setattr(AnyHistory, "world", world, raising=False)
    histories, number = pytestconfig.getoption("--histories"), pytestconfig.getoption("--seed")
    chosen = others(-(-histories // SHARES)) if histories else ALWAYS_THE_SAME
    if histories:
        # taken back after the test
        monkeypatch.setattr(AnyHistory, "_hypothesis_internal_use_seed", None, raising=False)
        seed(number * SHARES + share)(AnyHistory)
    begun = time.monotonic()
    try:
        run_state_machine_as_test(AnyHistory, settings=chosen)
    finally:
        again = f" (the same again: make model HISTORIES={histories} SEED={number})" if histories else ""
        report_line(f"{world.outcome_counter}; in {time.monotonic() - begun:.0f} s{again}")
    outcome_counter = world.outcome_counter
    assert outcome_counter.histories >= chosen.max_examples
    assert len(outcome_counter.different) > 0.95 * outcome_counter.histories, (
        "the same interleavings again and again"
    )
    assert outcome_counter.switches > outcome_counter.histories, "workers hardly ever took turns"
    assert outcome_counter.crashes > outcome_counter.histories / 10
    assert outcome_counter.overtaken > outcome_counter.histories / 30


@pytest.mark.parametrize("again", [0, 1, 2])
def test_a_run_that_is_cancelled_again_and_again_cancels_its_order(
    again: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of its awaits the first cancellation meets, and the next ones shortly after."""
    monkeypatch.setattr(AnyHistory, "world", world, raising=False)
    for first in range(4, 18):
        history = AnyHistory()
        try:
            history.orders_come(kind="refund refused", other=None, forgets=True, fine=1)
            for which, awaits in ((0, first), (1, 0), (0, again), (0, 15)):
                history.a_run_is_cancelled(which=which, awaits=awaits)
        finally:
            history.teardown()
