"""The addresses of a running world, in this process's environment and in files for other shells."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dotenv import dotenv_values

from deployments.local.errors import StackError
from deployments.local.files import write_whole
from shop.runtime.secrets import Unreadable, elsewhere


def given(name: str, env_file: Path) -> str | None:
    """What the person has set: in the environment, else in `.env`; or in the file or block that is named there. Empty is not set.

    Raises StackError when that cannot be read.
    """
    values = {**dotenv_values(env_file, encoding="utf-8-sig"), **{key: value for key, value in os.environ.items() if value}}
    found = elsewhere(name, values)
    if isinstance(found, Unreadable):
        raise StackError(found.why)
    return found or values.get(name) or None


def _reread(names: Iterable[str]) -> None:
    """Settings are read once in a process: makes ours, and Prefect's when it is loaded and one of them is named, read again."""
    from shop.settings import settings

    settings.cache_clear()
    if (context := sys.modules.get("prefect.context")) is not None and any(name.startswith("PREFECT_") for name in names):
        context.refresh_global_settings_context()


def set_environment(values: Mapping[str, str | None]) -> dict[str, str | None]:
    """Puts the values into this process's environment, and takes out those that are None. Returns what was there before."""
    before = {name: os.environ.get(name) for name in values}
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _reread(values)
    return before


@contextmanager
def environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Inside the block the values are in this process's environment, and known to settings and Prefect."""
    before = set_environment(values)
    try:
        yield
    finally:
        set_environment(before)


def write_env_file(path: Path, values: Mapping[str, str]) -> None:
    """For other shells: `set -a; . var/run.env`. Readable by its owner alone, since an address may hold a password."""
    lines = ["# Written by `make run` while it runs, and read by every command in this folder. For a shell: set -a; . var/run.env; set +a"]
    lines += [f"{name}={_quoted(value)}" for name, value in values.items()]
    write_whole(path, "\n".join([*lines, ""]))


def _quoted(value: str) -> str:
    """In single quotes, which shells and dotenv files read alike."""
    return "'" + value.replace("'", "%27") + "'" if "://" in value else "'" + value.replace("'", "'\\''") + "'"
