"""Pauses between the tries to start a part again."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from deployments.local.supervision import Pauses


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def _fails() -> None:
    raise RuntimeError("no disk left\nits log ends: ...")


def test_the_first_try_comes_at_once_and_pauses_grow_to_a_minute() -> None:
    clock = Clock()
    pauses = Pauses(clock)
    waited = []
    for _ in range(9):
        tried = pauses.attempt("part", _fails)
        assert tried is not None
        waited.append(tried.pause)
        clock.now += tried.pause - 0.1
        assert pauses.attempt("part", _fails) is None, "too soon"
        clock.now += 0.1
    assert waited == [2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_the_same_error_is_reported_in_full_once() -> None:
    clock = Clock()
    pauses = Pauses(clock)
    messages = []
    for _ in range(2):
        tried = pauses.attempt("part", _fails)
        assert tried is not None
        messages.append(str(tried))
        clock.now += tried.pause
    assert "its log ends" in messages[0]
    assert "no disk left" in messages[1]
    assert "its log ends" not in messages[1]


def test_one_that_starts_and_dies_at_once_is_not_started_all_the_time() -> None:
    clock = Clock()
    pauses = Pauses(clock)
    starts = []
    for _ in range(600):
        if pauses.attempt("part", lambda: None):
            starts.append(clock.now)
        clock.now += 1
    assert len(starts) < 16


def test_one_that_ran_well_for_long_is_started_at_once() -> None:
    clock = Clock()
    pauses = Pauses(clock)
    for _ in range(5):
        tried = pauses.attempt("part", lambda: None)
        assert tried is not None
        assert tried.pause == 2
        clock.now += 3600


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_is_not_an_error_of_a_part(interrupt: type[BaseException]) -> None:
    def start() -> None:
        raise interrupt

    with pytest.raises(interrupt):
        Pauses().attempt("part", start)
