"""Reads `prefect.yaml`, the deployments as data, with the values that it takes from the environment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from shop.runtime.home import HOME
from shop.settings import settings

FILE = Path(__file__).with_name("prefect.yaml")
"""A clone has a link to it in its own folder, where `prefect deploy` looks for it."""
REVISION = "ORDER_SAGA_REVISION"
"""The environment variable with the revision of an image's code, written when it is built."""
_GIT_SECONDS = 10


def described(file: Path = FILE) -> dict[str, Any]:
    """Returns the file's content, as it is: with the names of environment variables in braces."""
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    if code_folder() is None:
        content["pull"] = []  # without it, prefect deploy would make up steps
    return content


def values(folder: Path | None = None) -> dict[str, str]:
    """Returns the environment variables that the file takes values from, with their defaults. `folder`: the
    code's folder on the workers' machines, if it is not the default."""
    home = folder or code_folder()
    return {
        "WORKER_POOL": settings().workers.pool,
        "SHOP_TIMEZONE": settings().shop.timezone,
        REVISION: revision(),
        **({"WORKER_HOME": str(home)} if home else {}),
    }


def filled(content: Any, given: Mapping[str, str]) -> Any:
    """Returns the content with the variables replaced by their values, as `prefect deploy` does."""
    if isinstance(content, dict):
        return {key: filled(value, given) for key, value in content.items()}
    if isinstance(content, list):
        return [filled(each, given) for each in content]
    if isinstance(content, str):
        for name, value in given.items():
            content = content.replace(f"{{{{ ${name} }}}}", value)
    return content


def code_folder() -> Path | None:
    """Returns the folder of the clone on the workers' machines; None if the package is installed there."""
    return settings().workers.home or (HOME if _is_clone() else None)


def revision() -> str:
    """Returns the revision of the code, which is the version of the deployments: `ORDER_SAGA_REVISION`; in a
    clone, git's description of it (`-dirty` if a tracked file has changed); else the package's version."""
    return os.environ.get(REVISION) or (_git_revision() if _is_clone() else None) or _package_version()


def _is_clone() -> bool:
    return (HOME / "pyproject.toml").exists()


@cache
def _git_revision() -> str | None:
    """Returns None without git, or in a folder that is not a repository, such as an archive's."""
    if not (HOME / ".git").exists():
        return None
    command = ["git", "--no-optional-locks", "-C", str(HOME)]
    command += ["describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _package_version() -> str:
    try:
        return version("order-saga")
    except PackageNotFoundError:
        return "unknown"
