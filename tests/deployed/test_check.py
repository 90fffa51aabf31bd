"""`make check`: what is real, what is embedded, what is misconfigured;
against servers that are there and servers that are not."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import make_url

from deployments import running
from deployments.automations import ensure_automations
from deployments.check import report
from deployments.check.parts import Finding, Known, State, check_all
from deployments.check.report import check, check_settings
from deployments.check.servers import addresses_beyond_loopback
from deployments.environment import environment
from deployments.local.prefect_server import PREFECT_BASICS, PrefectServer
from deployments.local.processes import Child, free_port, wait_until
from deployments.local.programs import Worker
from deployments.trigger import run_order
from shop.orders.outcomes import Outcome
from shop.runtime.setting_groups import settings_in
from shop.settings import Settings, settings
from tests.conftest import HOME
from tests.crm_server import SECRET, crm_server
from tests.easypost_server import EasyPost
from tests.integration.world import World, an_order
from tests.localstripe_server import LocalStripe
from tests.mail_server import mail_server


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that is in use, and does not answer."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def by_part(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.part: finding for finding in findings}


def ask(given: set[str], prefect_api_url: str | None = None) -> dict[str, Finding]:
    settings.cache_clear()
    known = Known(settings(), given.__contains__, prefect_api_url)
    try:
        return by_part(asyncio.run(check_all(known)))
    finally:
        settings.cache_clear()


def test_with_nothing_configured_all_is_embedded(world: World) -> None:
    found = ask(set())
    assert {finding.state for finding in found.values()} <= {State.EMBEDDED, State.OFF, State.REAL}
    assert found["payments"].state is State.EMBEDDED
    assert found["database"].state is State.EMBEDDED
    assert found["mail"].state is State.EMBEDDED
    assert found["language model"].state is State.OFF


def test_what_make_run_starts_and_does_not_run_is_named(
    silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://postgres@127.0.0.1:{silent_port}/shop")
    monkeypatch.setenv("PAYMENT_GATEWAY_URL", f"http://127.0.0.1:{silent_port}")
    found = ask(set())
    for part in ("database", "payments"):
        assert found[part].state is State.EMBEDDED
        assert "not running now" in found[part].what


def test_why_a_database_cannot_be_used_is_shown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    url = make_url(settings().database_url).set(database="nope").render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url)
    found = ask({"DATABASE_URL"})
    assert found["database"].wrong
    assert 'database "nope" does not exist' in found["database"].what


def test_what_is_configured_is_contacted(
    world: World, localstripe: LocalStripe, easypost_server: EasyPost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        mails = stack.enter_context(mail_server(login=("mailer", "right")))
        crm = stack.enter_context(crm_server())
        given = {
            **localstripe.settings,
            **easypost_server.settings,
            "CARRIER": "easypost",
            "SMTP_URL": f"smtp://mailer:right@{mails.host}:{mails.port}?starttls=never",
            "CRM_WEBHOOK_URL": crm.url,
            "CRM_WEBHOOK_SECRET": SECRET,
            "ALERT_URLS": (
                f"mailto://mailer:right@{mails.host}:{mails.port}?from=a@b.example&to=c@d.example "
                "jsons://127.0.0.1:9/right"
            ),
        }
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        found = ask({"DATABASE_URL", *given})
        assert mails.logins == 1
        assert mails.taken == [], "nothing was sent"
        assert crm.received == []
    states = {part: finding.state for part, finding in found.items()}
    assert found["alerts"].what == "sent to mailto, jsons"
    for part in ("database", "payments", "mail", "CRM", "carrier", "alerts"):
        assert states[part] is State.REAL, found[part]
    assert "right" not in "".join(finding.what for finding in found.values())


@pytest.mark.parametrize(
    ("part", "given", "named"),
    [
        ("database", {"DATABASE_URL": "postgresql://u:PLANTED@127.0.0.1:{port}/x"}, "DATABASE_URL"),
        ("payments", {"PAYMENT_GATEWAY_URL": "http://127.0.0.1:{port}"}, "PAYMENT_GATEWAY_URL"),
        ("inventory", {"INVENTORY_SERVICE_URL": "http://127.0.0.1:{port}"}, "INVENTORY_SERVICE_URL"),
        ("mail", {"SMTP_URL": "smtp://u:PLANTED@127.0.0.1:{port}"}, "SMTP_URL"),
        ("alerts", {"ALERT_URLS": "json://127.0.0.1:{port} slack://PLANTED"}, "ALERT_URLS"),
        (
            "CRM",
            {"CRM_WEBHOOK_URL": "http://127.0.0.1:{port}", "CRM_WEBHOOK_SECRET": SECRET},
            "CRM_WEBHOOK_URL",
        ),
        (
            "language model",
            {"DSPY_MODEL": "openai/x", "DSPY_API_BASE": "http://127.0.0.1:{port}", "DSPY_API_KEY": "PLANTED"},
            "DSPY_MODEL",
        ),
    ],
)
def test_what_does_not_answer_is_named(
    world: World,
    silent_port: int,
    part: str,
    given: dict[str, str],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value.format(port=silent_port))
    found = ask(set(given))[part]
    assert found.state is State.WRONG
    assert named in found.remedy
    assert "PLANTED" not in repr(found)


def test_a_wrong_login_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server(login=("mailer", "right")) as mails:
        monkeypatch.setenv("SMTP_URL", f"smtp://mailer:PLANTED@{mails.host}:{mails.port}?starttls=never")
        found = ask({"SMTP_URL"})["mail"]
    assert found.state is State.WRONG
    assert "refuses the login in SMTP_URL" in found.what
    assert "PLANTED" not in repr(found)


def test_tables_that_are_behind_are_reported(world: World) -> None:
    world.sql("UPDATE alembic_version SET version_num = '0001'")
    found = ask({"DATABASE_URL"})["database"]
    assert found.state is State.WRONG
    assert found.remedy == "run order-saga migrate"


def test_a_prefect_server_with_nothing_deployed_is_reported(world: World, prefect_api: PrefectServer) -> None:
    found = ask({"PREFECT_API_URL"}, prefect_api.api_url)["Prefect server"]
    assert found.state is State.WRONG
    assert found.remedy == "run order-saga setup"


def test_a_prefect_server_with_everything_is_real_or_our_own(
    world: World, worker: Worker, prefect_api: PrefectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert ask({"PREFECT_API_URL"}, prefect_api.api_url)["Prefect server"].state is State.REAL
    # `make check` beside a running `make run`:
    # nobody has set it, it stands where that says what it has started
    (tmp_path / "run.env").write_text(f"PREFECT_API_URL={prefect_api.api_url}\n")
    for module in (report, running):
        monkeypatch.setattr(module, "ENV_FILES", (tmp_path / "run.env", tmp_path / ".env"))
    monkeypatch.delenv("PREFECT_API_URL")
    assert by_part(check())["Prefect server"].state is State.EMBEDDED


def with_profile(home: Path, **values: str) -> dict[str, str | None]:
    """An environment in which only the active Prefect profile names a server."""
    home.mkdir()
    (home / "profiles.toml").write_text(
        "\n".join(['active = "mine"', "[profiles.mine]", *(f'{n} = "{v}"' for n, v in values.items())])
    )
    return {**PREFECT_BASICS, "PREFECT_API_URL": None, "PREFECT_HOME": str(home)}


@pytest.mark.slow
async def test_commands_use_the_server_of_the_prefect_profile(
    world: World,
    worker: Worker,
    prefect_api: PrefectServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    unique: str,
) -> None:
    for module in (report, running):
        monkeypatch.setattr(module, "ENV_FILES", (tmp_path / "run.env", tmp_path / ".env"))
    given = with_profile(
        tmp_path / "home",
        PREFECT_API_URL=prefect_api.api_url,
        PREFECT_API_AUTH_STRING=prefect_api.auth_string,
    )
    with environment(given):
        found = by_part(await asyncio.to_thread(check))["Prefect server"]
        await asyncio.to_thread(ensure_automations)
        ended = await asyncio.to_thread(run_order, an_order(f"PROFILE-{unique}"), own_run=True, timeout=120)
    assert (found.state, prefect_api.api_url in found.what) == (State.REAL, True), found
    assert ended.outcome is Outcome.COMPLETED
    assert world.charges(f"PROFILE-{unique}") == 1


def test_a_server_of_the_prefect_profile_that_does_not_answer_is_misconfigured(
    world: World, silent_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in (report, running):
        monkeypatch.setattr(module, "ENV_FILES", (tmp_path / "run.env", tmp_path / ".env"))
    with environment(with_profile(tmp_path / "home", PREFECT_API_URL=f"http://127.0.0.1:{silent_port}/api")):
        found = by_part(check())["Prefect server"]
    assert found.state is State.WRONG
    assert f"127.0.0.1:{silent_port}" in found.what
    assert "PREFECT_API_URL" in found.remedy


@pytest.fixture(scope="module")
def open_prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API of a Prefect server without a password, on all addresses of this machine."""
    if not list(addresses_beyond_loopback()):
        pytest.skip("this machine has no address beyond loopback")
    home, port = tmp_path_factory.mktemp("open-prefect"), free_port()
    given: dict[str, str | None] = {
        **PREFECT_BASICS,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    given |= {
        "PREFECT_API_URL": None,
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home}/prefect.db",
    }
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--no-services",
        "--host",
        "0.0.0.0",
        "--port",
        str(port),
    ]
    server = Child(
        "an open Prefect server", command, log=home / "log", pid_file=home / "pid", env=given, cwd=HOME
    )
    server.start()
    try:
        api = f"http://127.0.0.1:{port}/api"
        wait_until(lambda: answers(f"{api}/health"), 120, "an open Prefect server to answer", child=server)
        yield api
    finally:
        server.stop()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.slow
def test_a_prefect_server_without_a_login_is_misconfigured(world: World, open_prefect: str) -> None:
    found = ask({"PREFECT_API_URL"}, open_prefect)["Prefect server"]
    assert found.state is State.WRONG
    assert "PREFECT_SERVER_API_AUTH_STRING" in found.remedy


def test_a_prefect_server_that_refuses_the_login_is_reported(
    prefect_api: PrefectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with environment({"PREFECT_API_AUTH_STRING": "admin:PLANTED"}):
        found = ask({"PREFECT_API_URL"}, prefect_api.api_url)["Prefect server"]
    assert found.state is State.WRONG
    assert "PREFECT_API_AUTH_STRING" in found.remedy
    assert "PLANTED" not in repr(found)


def test_settings_that_are_wrong_are_all_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STRIPE_API_KEY": "pk_PLANTED", "LEASE_SECONDS": "-1", "SHOP_NAM": "x"}.items():
        monkeypatch.setenv(name, value)
    found = by_part(check_settings())
    assert {"STRIPE_API_KEY", "LEASE_SECONDS", "SHOP_NAM"} <= set(found)
    assert found["SHOP_NAM"].remedy == "did you mean SHOP_NAME?"
    assert "PLANTED" not in repr(found)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"PAYMENT_GATEWAY": "stripe"}, "STRIPE_API_KEY"),
        ({"CARRIER": "easypost"}, "EASYPOST_API_KEY"),
        ({"CRM_WEBHOOK_URL": "https://crm.example"}, "CRM_WEBHOOK_SECRET"),
        ({"CONFIRMATION_TIMEOUT_SECONDS": "90"}, "CONFIRMATION_TIMEOUT_SECONDS"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_setting_that_needs_another_one_is_named(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], named: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    (found,) = check()
    assert found.state is State.WRONG
    assert found.part == next(iter(given))
    assert named in found.what + found.part


def test_names_of_something_else_are_no_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL_RO", "LOG_LEVELS", "SMTP_URL2"):
        monkeypatch.setenv(name, "x")
    assert check_settings() == []


def command(**given: str) -> subprocess.CompletedProcess[str]:
    ours = settings_in(Settings).keys() | {"PREFECT_API_URL"}
    environment: dict[str, Any] = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        [sys.executable, "-m", "deployments.cli", "check"],
        cwd=HOME,
        env={**environment, **given},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command_reports_it_with_its_exit_code(
    database_url: str, silent_port: int, tmp_path: Any
) -> None:
    good = command(DATABASE_URL=database_url, VAR_DIR=str(tmp_path))
    assert good.returncode == 0, good.stdout + good.stderr
    assert "Nothing is misconfigured" in good.stdout
    bad = command(
        DATABASE_URL=database_url, VAR_DIR=str(tmp_path), SMTP_URL=f"smtp://u:PLANTED@127.0.0.1:{silent_port}"
    )
    assert bad.returncode == 1
    assert "SMTP_URL" in bad.stdout
    assert "PLANTED" not in bad.stdout + bad.stderr
