"""This process's environment: settings in `.env` and in files, secrets of Prefect's client and servers, which
Docker and Kubernetes mount as files, and the addresses of the running system, also for other shells."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dotenv import dotenv_values

from deployments.errors import StackError
from shop.runtime.files import write_atomic
from shop.runtime.secrets import Unreadable, elsewhere


def given(name: str, env_file: Path) -> str | None:
    """Returns what the person has set: in the environment or in `.env`; also in the file or block that is
    named there. Empty counts as not set.

    Raises StackError if that cannot be read.
    """
    values = {
        **dotenv_values(env_file, encoding="utf-8-sig"),
        **{key: value for key, value in os.environ.items() if value},
    }
    found = elsewhere(name, values)
    if isinstance(found, Unreadable):
        raise StackError(found.why)
    return found or values.get(name) or None


def _reread(names: Iterable[str]) -> None:
    """Settings are read once per process: makes ours be read again, and Prefect's if it is loaded and one
    of the names is its."""
    from shop.settings import settings

    settings.cache_clear()
    if (context := sys.modules.get("prefect.context")) is not None and any(
        name.startswith("PREFECT_") for name in names
    ):
        context.refresh_global_settings_context()


def set_environment(values: Mapping[str, str | None]) -> dict[str, str | None]:
    """Sets this process's environment variables; None removes one. Returns the previous values."""
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
    """Sets the values in this process's environment, for settings and Prefect too, inside the block."""
    before = set_environment(values)
    try:
        yield
    finally:
        set_environment(before)


def write_env_file(path: Path, values: Mapping[str, str]) -> None:
    """Writes a file for other shells: `set -a; . var/run.env`. Only its owner can read it, because an
    address may contain a password."""
    lines = [
        (
            "# Written by `make run` while it runs, and read by every command in this folder. "
            "For a shell: set -a; . var/run.env; set +a"
        )
    ]
    lines += [f"{name}={_quoted(value)}" for name, value in values.items()]
    write_atomic(path, "\n".join([*lines, ""]).encode())


def _quoted(value: str) -> str:
    """Quotes a value with single quotes, which shells and dotenv files read alike."""
    return (
        "'" + value.replace("'", "%27") + "'" if "://" in value else "'" + value.replace("'", "'\\''") + "'"
    )


CREDENTIALS = ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY")
"""`user:password` of a server, and the key of Prefect Cloud."""
SECRETS = (
    *CREDENTIALS,
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL",
    "PREFECT_SERVER_DOCKET_URL",
    "PREFECT_REDIS_MESSAGING_URL",
    "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL",
)
"""These, and the settings of Prefect's own servers that contain a password."""


class UnreadableSecret(Exception):
    """A credential's file cannot be read, or contradicts the setting itself: the message says which."""


def from_file(name: str, values: Mapping[str, str | None]) -> str | None:
    """Returns the credential in the file that `NAME_FILE` names; None if the values have no such name. Raises
    `UnreadableSecret`."""
    found = elsewhere(name, {each: values.get(each) for each in (name, f"{name}_FILE")})
    if isinstance(found, Unreadable):
        raise UnreadableSecret(found.why)
    return found


def read_secret_files() -> None:
    """Replaces settings such as `PREFECT_API_AUTH_STRING_FILE` in this process's environment by the files'
    contents. Child processes inherit it. Raises `UnreadableSecret`."""
    values: dict[str, str | None] = {}
    for name in SECRETS:
        if (found := from_file(name, os.environ)) is not None:
            values |= {name: found, f"{name}_FILE": None}
    if values:
        set_environment(values)
