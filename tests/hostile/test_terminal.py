"""No text from outside commands the terminal of who looks at it:
neither with ESC nor with the C1 controls, which terminals obey too."""

from __future__ import annotations

import io
import json
import logging
import re
import sys

import pytest
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deployments import terminal
from deployments.cli.outcome_table import outcome_table
from shop.monitoring.config import Monitoring
from shop.monitoring.log_lines import Lines
from shop.orders.outcomes import OrderOutcome, Outcome

EVIL = "a\x1b]0;owned\x07b\x9b2Jc\x90d\x85e\u202ef\x7fg"
_OURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What rich writes: colours, and where the cursor is."""


def left_over(written: str) -> list[str]:
    """Control characters in it that are not ours."""
    return re.findall(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", _OURS.sub("", written).replace("\r", "")
    )


@pytest.mark.parametrize("colours", [True, False])
def test_tables_and_lines_have_no_controls_but_ours(colours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stdout", written)
    monkeypatch.setenv("FORCE_COLOR" if colours else "NO_COLOR", "1")
    console = terminal.console(width=150)
    table = Table(title=EVIL)
    table.add_column(EVIL)
    table.add_row(EVIL)
    table.add_row(Text(EVIL, "bold red"))
    ended = OrderOutcome(order_id=EVIL, outcome=Outcome.COMPENSATED, failing_step=EVIL)
    console.print(table, EVIL, Text(EVIL), outcome_table("Orders", [(EVIL, ended)]))
    with Live(Text(EVIL), console=console, auto_refresh=False) as live:
        live.update(table, refresh=True)
    assert left_over(written.getvalue()) == []
    assert "2Jc" in written.getvalue()
    assert ("\x1b[" in written.getvalue()) == colours


def test_lines_and_json_have_none_and_json_means_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.write(EVIL)
    assert left_over(capsys.readouterr().out) == []
    terminal.write_json(json.dumps({"a": EVIL}, ensure_ascii=False))
    out = capsys.readouterr().out
    assert left_over(out) == []
    assert json.loads(out) == {"a": EVIL}


def test_log_lines_for_people_have_none(capsys: pytest.CaptureFixture[str]) -> None:
    Lines(Monitoring(), people=True, machines=False).emit(
        logging.LogRecord("x", logging.INFO, "", 0, f"said {EVIL}", None, None)
    )
    err = capsys.readouterr().err
    assert "2Jc" in err
    assert left_over(err) == []
