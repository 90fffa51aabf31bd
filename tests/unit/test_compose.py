"""compose.yaml: complete for several Prefect servers, without secrets, and each container restricted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deployments.environment import SECRETS
from deployments.local import prefect_server
from shop.runtime.secrets import is_secret
from shop.runtime.setting_groups import settings_in
from shop.settings import Settings
from tests.fleet.fleet import described

OURS = ("order-saga",)
"""How our own image's name begins."""
_SERVER_SETTINGS = """
import json
from prefect.settings import get_current_settings
print(json.dumps(get_current_settings().server.model_dump(mode="json", context={"include_secrets": True})))
"""


@pytest.fixture(scope="module", params=["demo", "prod"])
def services(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = described(request.param)["services"]
    return found


def server_settings(given: dict[str, str], folder: Path) -> dict[str, Any]:
    """Returns the settings of a Prefect server with this environment, by their path."""
    values = {name.removesuffix("_FILE"): value for name, value in given.items()}
    values |= {"PREFECT_HOME": str(folder), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", _SERVER_SETTINGS], env=values, capture_output=True, text=True, check=True
    )
    return dict(flat(json.loads(done.stdout)))


def flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [each for name, inner in value.items() for each in flat(inner, f"{path}.{name}".strip("."))]
    return [(path, sorted(value, key=str) if isinstance(value, list) else value)]


def test_no_prefect_server_keeps_in_its_own_memory_what_another_needs(
    services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Whatever Prefect adds: a setting whose default is a module or address of memory is one that several
    servers have to set."""
    for name in ("prefect-1", "prefect-2", "prefect-services"):
        found = server_settings(services[name]["environment"], tmp_path)
        alone = {path for path, value in found.items() if isinstance(value, str) and "memory" in value}
        assert not alone, f"{name} keeps these in its memory: {alone}"
        assert found["database.migrate_on_start"] is False
    plain = server_settings({}, tmp_path)
    assert len([value for value in plain.values() if isinstance(value, str) and "memory" in value]) >= 4


def test_prefects_servers_keep_and_batch_what_the_local_one_does(
    services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    local = server_settings(prefect_server.TUNING, tmp_path)
    theirs = server_settings(services["prefect-services"]["environment"], tmp_path)
    plain = server_settings({}, tmp_path)
    differ = {path: theirs[path] for path, value in local.items() if value not in (plain[path], theirs[path])}
    assert not differ


def test_no_secret_is_in_the_environment(services: dict[str, dict[str, Any]]) -> None:
    ours = {name for name, setting in settings_in(Settings).items() if is_secret(name, setting.info)}
    for name, service in services.items():
        given = service.get("environment") or {}
        assert not given.keys() & (ours | set(SECRETS)), name
        assert not [value for value in given.values() if value and "://" in value and "@" in value], name


def test_our_containers_are_restricted(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        if service["image"].startswith(OURS):
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert "no-new-privileges:true" in service["security_opt"], name
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", f"{name} is reachable from elsewhere without TLS"


def test_production_has_no_part_that_is_invented(services: dict[str, dict[str, Any]]) -> None:
    invented = {"postgres", "sandbox", "samples"}
    assert services.keys() & invented in (invented, set())
    assert ("check" in services) == (not services.keys() & invented)
