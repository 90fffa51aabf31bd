"""Commands find the Prefect server that `make run` has started, and send its password to no other."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.context import refresh_global_settings_context
from prefect.settings import Settings, get_current_settings
from rich.console import Console

from deployments import running
from deployments.cli import order_saga
from deployments.environment import UnreadableSecret, read_secret_files, write_env_file
from deployments.local import run
from deployments.local.run import show_next_steps
from deployments.running import configured_prefect_api_url, use_running_world

OURS, THEIRS = "http://127.0.0.1:4200/api", "https://prefect.example.com/api"
FILES = ("PREFECT_API_AUTH_STRING_FILE", "PREFECT_API_KEY_FILE")
NAMES = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_API_KEY", "PREFECT_PROFILE", *FILES)


@pytest.fixture
def no_login(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without a server and its credentials; what a call puts there is removed afterwards."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    return monkeypatch


@pytest.fixture(autouse=True)
def prefect_settings() -> Iterator[None]:
    """Prefect reads its settings again once the environment is as before."""
    yield
    refresh_global_settings_context()


@pytest.mark.parametrize(
    ("environment", "env_file", "used"),
    [
        ({}, {}, (OURS, "admin:ours")),
        ({"PREFECT_API_URL": OURS}, {}, (OURS, "admin:ours")),
        ({"PREFECT_API_URL": OURS, "PREFECT_API_AUTH_STRING": "admin:typed"}, {}, (OURS, "admin:typed")),
        ({"PREFECT_API_URL": THEIRS}, {}, (THEIRS, None)),
        ({"PREFECT_API_URL": THEIRS, "PREFECT_API_KEY": "pnu_key"}, {}, (THEIRS, None)),
        ({}, {"PREFECT_API_URL": THEIRS}, (THEIRS, None)),
        (
            {},
            {"PREFECT_API_URL": THEIRS, "PREFECT_API_AUTH_STRING": "admin:theirs"},
            (THEIRS, "admin:theirs"),
        ),
        (
            {"PREFECT_API_URL": OURS},
            {"PREFECT_API_URL": THEIRS, "PREFECT_API_AUTH_STRING": "admin:theirs"},
            (OURS, "admin:ours"),
        ),
    ],
)
def test_a_password_is_taken_only_from_where_its_address_stands(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    env_file: dict[str, str],
    used: tuple[str, str | None],
) -> None:
    write_env_file(tmp_path / "run.env", {"PREFECT_API_URL": OURS, "PREFECT_API_AUTH_STRING": "admin:ours"})
    write_env_file(tmp_path / ".env", env_file)
    monkeypatch.setattr(running, "ENV_FILES", (tmp_path / "run.env", tmp_path / ".env"))
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # What the call itself puts there is removed afterwards.
    monkeypatch.setattr(os, "environ", os.environ.copy())
    use_running_world()
    assert (os.environ.get("PREFECT_API_URL"), os.environ.get("PREFECT_API_AUTH_STRING")) == used


@pytest.mark.parametrize(
    ("environment", "env_file", "named"),
    [
        ({}, {}, "https://active.example.com/api"),
        ({"PREFECT_PROFILE": "other"}, {}, "https://other.example.com/api"),
        ({"PREFECT_PROFILE": "none"}, {}, None),
        ({"PREFECT_API_URL": THEIRS}, {}, THEIRS),
        ({"PREFECT_API_URL": ""}, {}, None),
        ({}, {"PREFECT_API_URL": THEIRS}, THEIRS),
    ],
)
def test_a_prefect_profile_names_the_server_unless_a_setting_does(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    env_file: dict[str, str],
    named: str | None,
) -> None:
    profiles = {"active": "https://active.example.com/api", "other": "https://other.example.com/api"}
    tables = [f'[profiles.{name}]\nPREFECT_API_URL = "{url}"\n' for name, url in profiles.items()]
    (tmp_path / "profiles.toml").write_text("".join(['active = "active"\n', *tables, "[profiles.none]\n"]))
    write_env_file(tmp_path / "run.env", {"PREFECT_API_URL": OURS})
    write_env_file(tmp_path / ".env", env_file)
    monkeypatch.setattr(running, "ENV_FILES", (tmp_path / "run.env", tmp_path / ".env"))
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"PREFECT_HOME": str(tmp_path), **environment}.items():
        monkeypatch.setenv(name, value)
    assert configured_prefect_api_url() == named
    assert run._options().prefect_api_url == named, "`make run` uses that server instead of its own"


@pytest.mark.parametrize("name", ["PREFECT_API_AUTH_STRING", "PREFECT_API_KEY"])
def test_a_credential_can_be_in_a_file(tmp_path: Path, no_login: pytest.MonkeyPatch, name: str) -> None:
    file = tmp_path / "secret"
    file.write_text("admin:from a file\n")
    no_login.setenv(f"{name}_FILE", str(file))
    read_secret_files()
    assert os.environ[name] == "admin:from a file"
    assert get_current_settings().to_environment_variables(exclude_unset=True)[name] == "admin:from a file"
    file.write_text("admin:another one")
    read_secret_files()
    assert os.environ[name] == "admin:from a file", "a process keeps what it has read"
    assert not any(file in os.environ for file in FILES), "its children have one source"


def test_a_file_named_beside_the_address_is_read(tmp_path: Path, no_login: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text("pnu_key")
    write_env_file(tmp_path / ".env", {"PREFECT_API_URL": THEIRS, "PREFECT_API_KEY_FILE": str(file)})
    no_login.setattr(running, "ENV_FILES", (tmp_path / "run.env", tmp_path / ".env"))
    use_running_world()
    assert (os.environ.get("PREFECT_API_URL"), os.environ.get("PREFECT_API_KEY")) == (THEIRS, "pnu_key")


def test_a_credential_that_cannot_be_read_is_an_error_that_names_it(
    tmp_path: Path, no_login: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "secret"
    no_login.setenv("PREFECT_API_AUTH_STRING_FILE", str(file))
    assert order_saga(["status"]) == 2
    assert f"PREFECT_API_AUTH_STRING_FILE={file}" in capsys.readouterr().err
    file.write_text("admin:PLANTED")
    no_login.setenv("PREFECT_API_AUTH_STRING", "admin:OTHER")
    with pytest.raises(UnreadableSecret) as error:
        read_secret_files()
    assert "PREFECT_API_AUTH_STRING_FILE" in str(error.value)
    assert "PLANTED" not in str(error.value)


@pytest.mark.parametrize(
    ("profile", "sent"),
    [
        ({"PREFECT_API_URL": "https://other.example.com/api", "PREFECT_API_KEY": "pnu_key"}, False),
        ({"PREFECT_API_URL": THEIRS, "PREFECT_API_KEY": "pnu_key"}, True),
        ({"PREFECT_API_KEY": "pnu_key"}, True),
    ],
)
def test_the_login_of_a_profile_is_not_sent_to_another_address(
    tmp_path: Path, no_login: pytest.MonkeyPatch, profile: dict[str, str], sent: bool
) -> None:
    values = "".join(f'{name} = "{value}"\n' for name, value in profile.items())
    (tmp_path / "profiles.toml").write_text(f'active = "mine"\n[profiles.mine]\n{values}')
    write_env_file(tmp_path / ".env", {"PREFECT_API_URL": THEIRS})
    no_login.setattr(running, "ENV_FILES", (tmp_path / "run.env", tmp_path / ".env"))
    no_login.setenv("PREFECT_HOME", str(tmp_path))
    refresh_global_settings_context()
    use_running_world()
    settings = Settings()
    assert settings.api.url == THEIRS
    assert bool(settings.api.key and settings.api.key.get_secret_value()) == sent


@pytest.mark.parametrize("width", [60, 80, 130])
@pytest.mark.parametrize("terminal", [True, False])
def test_commands_to_copy_are_not_wrapped(width: int, terminal: bool) -> None:
    written = io.StringIO()
    stack: Any = SimpleNamespace(
        ui_url="http://127.0.0.1:4200",
        prefect_server=SimpleNamespace(
            password_file=Path("/elsewhere/var/prefect/password"), auth_string="admin:planted"
        ),
        env_file=Path("/elsewhere/var/run.env"),
        key_file=Path("/elsewhere/var/a-long-name-of-a-folder/orders-api-key"),
        metrics_token_file=Path("/elsewhere/var/metrics-token"),
        options=SimpleNamespace(orders_api_key=None, metrics_token=None),
        web=SimpleNamespace(url="http://127.0.0.1:8400"),
        worker=SimpleNamespace(metrics_url="http://127.0.0.1:9464/metrics"),
    )
    show_next_steps(Console(file=written, width=width, force_terminal=terminal, no_color=True), stack)
    lines = written.getvalue().splitlines()
    assert any("curl" in line and "http://127.0.0.1:8400/orders" in line for line in lines)
    assert any("curl" in line and "http://127.0.0.1:9464/metrics" in line for line in lines)
    assert any("/elsewhere/var/prefect/password" in line for line in lines)
    assert ("admin:planted" in written.getvalue()) == terminal
