"""`order-saga status --watch`: it continues when the database is unavailable,
and never shows more than the terminal has room for."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text
from sqlalchemy.exc import OperationalError

from deployments.cli import status
from shop.monitoring.window import Window

ALT, MAIN, HOME = "\x1b[?1049h", "\x1b[?1049l", "\x1b[H"


class Read:
    """What is read in a round."""

    def model_dump_json(self, indent: int | None = None) -> str:
        return json.dumps({"rounds": 1}, indent=indent)


def rounds(monkeypatch: pytest.MonkeyPatch, *ends: str) -> None:
    """Each is `read`, or the database is unavailable; then Ctrl-C."""
    left = iter(ends)
    more = iter([*[None] * (len(ends) - 1), KeyboardInterrupt()])

    def read(_: Window) -> Read:
        if next(left) == "read":
            return Read()
        raise OperationalError("SELECT 1", {}, Exception("server closed the connection PLANTED"))

    def sleep(_: float) -> None:
        if (end := next(more)) is not None:
            raise end

    monkeypatch.setattr(status, "_read", read)
    monkeypatch.setattr(status, "shown", lambda *_: Text("\n".join(f"line {number}" for number in range(30))))
    monkeypatch.setattr(status.time, "sleep", sleep)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], io.StringIO]]:
    """A terminal of so many lines."""

    def made(height: int) -> io.StringIO:
        written = io.StringIO()
        one: Any = Console(
            file=written,
            force_terminal=True,
            width=100,
            height=height,
            legacy_windows=False,
            _environ={"TERM": "xterm"},
        )
        monkeypatch.setattr("deployments.terminal.console", lambda **_: one)
        return written

    return made


def test_an_unavailable_database_is_reported_and_retried(
    monkeypatch: pytest.MonkeyPatch, terminal: Callable[[int], io.StringIO]
) -> None:
    written = terminal(10)
    rounds(monkeypatch, "away", "read", "away", "read")
    assert status.status(watch=True) == 0
    out = written.getvalue()
    assert (out.count(ALT), out.count(MAIN)) == (1, 1)
    frames = out.partition(ALT)[2].partition(MAIN)[0].split(HOME)
    lines = [frame for frame in frames if "line 0" in frame or "does not answer" in frame]
    assert ["does not answer" in frame for frame in lines] == [True, False, True, False]
    assert "line 0" in lines[2], "what was read last stays there"
    assert "PLANTED" not in out


@pytest.mark.parametrize(
    ("height", "more"), [(10, "21 more lines"), (29, "2 more lines"), (30, None), (50, None)]
)
def test_tables_that_are_taller_than_the_terminal_are_cut(
    monkeypatch: pytest.MonkeyPatch, terminal: Callable[[int], io.StringIO], height: int, more: str | None
) -> None:
    written = terminal(height)
    rounds(monkeypatch, "read", "read", "read")
    assert status.status(watch=True) == 0
    frames = [frame for frame in written.getvalue().split(HOME) if "line 0" in frame]
    assert len(frames) == 3
    for frame in frames:
        assert frame.count("\n") < height
        assert (more in frame) if more else ("line 29" in frame and "more lines" not in frame)


def test_without_a_terminal_each_round_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds(monkeypatch, "read", "away", "read")
    assert status.status(watch=True) == 0
    printed = capsys.readouterr()
    assert printed.out.count("line 29") == 2
    assert printed.err.count("does not answer") == 1


def test_json_continues_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rounds(monkeypatch, "read", "away", "read")
    assert status.status(watch=True, json=True) == 0
    printed = capsys.readouterr()
    assert [json.loads(line) for line in printed.out.splitlines()] == [{"rounds": 1}] * 2
    assert printed.err.count("does not answer") == 1
