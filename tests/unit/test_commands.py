"""Commands that somebody calls wrongly say what is wrong in a line or two, and do nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent.parent
NOWHERE = "postgresql://postgres@127.0.0.1:1/nowhere"


def call(*command: str, **settings: str) -> tuple[int, str]:
    """Exit code, and what it said."""
    environment = {**os.environ, "DATABASE_URL": NOWHERE, "PREFECT_API_URL": "http://127.0.0.1:1/api", **settings}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=HOME, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def orders(tmp_path: Path) -> str:
    file = tmp_path / "orders.json"
    file.write_text('[{"id": "A"}]')
    return str(file)


@pytest.mark.parametrize(
    "command",
    ["deployments.trigger", "deployments.diagram", "deployments.status", "deployments.books", "deployments.migrate", "shop.migrate"],
)
def test_a_wrong_setting_is_named(command: str, orders: str) -> None:
    given = {"deployments.trigger": [orders], "deployments.diagram": ["ORDER-1001"]}.get(command, [])
    code, said = call(command, *given, BATCH_SIZE="none-of-your-business")
    assert code in {1, 2}
    assert "BATCH_SIZE" in said
    assert "Traceback" not in said
    assert "none-of-your-business" not in said


@pytest.mark.parametrize(
    "command",
    ["deployments.trigger", "deployments.diagram", "deployments.status", "deployments.books", "deployments.migrate", "shop.migrate"],
)
def test_a_database_that_is_away_is_said(command: str, orders: str) -> None:
    given = {"deployments.trigger": [orders], "deployments.diagram": ["ORDER-1001"]}.get(command, [])
    code, said = call(command, *given)
    assert code in {1, 2}
    assert "database" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "command",
    ["deployments.automations", "deployments.check", "deployments.books", "deployments.status", "deployments.migrate", "shop.migrate"],
)
def test_an_option_that_there_is_not_stops_it(command: str) -> None:
    code, said = call(command, "--bogus")
    assert code == 2
    assert "--bogus" in said
