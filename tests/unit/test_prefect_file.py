"""prefect.yaml takes its values from the environment, and has a revision as its version."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from deployments import prefect_file
from deployments.environment import environment
from deployments.prefect_file import FILE, REVISION, code_folder, described, filled, revision, values
from shop.settings import Settings
from tests.conftest import HOME


def test_the_link_in_the_clone_is_the_file() -> None:
    assert (HOME / "prefect.yaml").resolve() == FILE


def test_every_value_that_it_takes_has_a_default() -> None:
    wanted = set(re.findall(r"\{\{ \$(\w+) \}\}", FILE.read_text()))
    assert wanted == values().keys()
    assert "{{ $" not in repr(filled(described(), values()))


def test_values_are_taken_as_they_are() -> None:
    content = {"name": "{{ $WORKER_POOL }}", "steps": [{"directory": "{{ $WORKER_HOME }}/x"}], "number": 3}
    assert filled(content, {"WORKER_POOL": "it's: 1", "WORKER_HOME": "/srv/{a}"}) == {
        "name": "it's: 1",
        "steps": [{"directory": "/srv/{a}/x"}],
        "number": 3,
    }


def test_pool_and_folder_come_from_settings() -> None:
    with environment({"WORKER_POOL": "shop pool", "WORKER_HOME": "/srv/order-saga", REVISION: "abc"}):
        content = filled(described(), values())
    assert {each["work_pool"]["name"] for each in content["deployments"]} == {"shop pool"}
    assert {each["version"] for each in content["deployments"]} == {"abc"}
    assert "/srv/order-saga" in repr(content["pull"])


@pytest.mark.parametrize("name", ["", "a/b", "{{ $X }}", "-"])
def test_a_pool_that_prefect_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="WORKER_POOL"):
        Settings(WORKER_POOL=name)


def git(folder: Path, *command: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", "-C", str(folder), *command],
        env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The code is in an empty folder of its own, of which nothing is known yet."""
    monkeypatch.setattr(prefect_file, "HOME", tmp_path)
    monkeypatch.delenv(REVISION, raising=False)
    prefect_file._git_revision.cache_clear()
    yield tmp_path
    prefect_file._git_revision.cache_clear()


def test_the_version_is_the_revision_of_the_clone(elsewhere: Path) -> None:
    file = elsewhere / "pyproject.toml"
    file.write_text("")
    git(elsewhere, "init", "--quiet")
    git(elsewhere, "add", ".")
    git(elsewhere, "commit", "--quiet", "--message", "first")
    head = git(elsewhere, "rev-parse", "HEAD")
    assert head.startswith(revision())
    assert len(revision()) >= 12
    file.write_text("changed")
    prefect_file._git_revision.cache_clear()
    assert revision() == f"{head[:12]}-dirty"
    with environment({REVISION: "of an image"}):
        assert revision() == "of an image"


def test_without_git_the_version_is_that_of_the_package(elsewhere: Path) -> None:
    (elsewhere / "pyproject.toml").write_text("")
    assert revision() == prefect_file._package_version()


def test_an_installed_package_pulls_nothing(elsewhere: Path) -> None:
    assert code_folder() is None
    assert described()["pull"] == []
    with environment({"WORKER_HOME": "/srv/order-saga"}):
        assert described()["pull"] != []
