"""The systemd units: they name commands and settings that exist, and stop workers gracefully."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prefect.settings import Settings as PrefectSettings
from prefect.settings.legacy import _get_settings_fields as prefect_settings

from deployments.cli import make_app
from deployments.environment import SECRETS
from shop.runtime.secrets import is_secret
from shop.runtime.setting_groups import settings_in
from shop.settings import Settings

FOLDER = Path(__file__).resolve().parents[2] / "deployments" / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
_PROGRAM = "/opt/order-saga/.venv/bin/order-saga"


def lines(unit: Path) -> list[tuple[str, str]]:
    """Returns the unit's settings, each with its value; a name may be there several times."""
    return [
        (name, value)
        for line in unit.read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
        for name, separator, value in [line.partition("=")]
        if separator
    ]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_starts_what_exists_and_stops_it_gracefully(unit: Path) -> None:
    values = dict(lines(unit))
    program, command, *_ = values["ExecStart"].split()
    assert program == _PROGRAM
    assert command in make_app()
    assert values["KillMode"] == "mixed", (
        "systemd would send SIGTERM to a worker's runs, which the worker stops"
    )
    assert int(values["TimeoutStopSec"]) >= 30
    assert values["Restart"] == "always"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_names_settings_that_exist_and_the_files_that_it_loads(unit: Path) -> None:
    ours = settings_in(Settings)
    secrets = {name for name, setting in ours.items() if is_secret(name, setting.info)} | set(SECRETS)
    given = [
        each.partition("=")[::2]
        for name, value in lines(unit)
        if name == "Environment"
        for each in value.split()
    ]
    loaded = {value.partition(":")[0] for name, value in lines(unit) if name == "LoadCredential"}
    files = {name.removesuffix("_FILE"): value for name, value in given if name.endswith("_FILE")}
    assert files.keys() <= secrets
    assert {value.removeprefix("%d/") for value in files.values()} == loaded
    known = ours.keys() | prefect_settings(PrefectSettings).keys()
    assert {name for name, _ in given if not name.endswith("_FILE")} <= known


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    """With a program at the place of ours."""
    if (systemd_analyze := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is missing (on Debian: apt-get install systemd)")
    copies = []
    for unit in UNITS:
        copies.append(tmp_path / unit.name)
        copies[-1].write_text(re.sub(re.escape(_PROGRAM), "/bin/true", unit.read_text(encoding="utf-8")))
    done = subprocess.run(
        [systemd_analyze, "verify", "--man=no", *copies], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
