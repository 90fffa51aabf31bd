"""Reads the secrets of Prefect's client and servers from files, as Docker and Kubernetes mount them.

Prefect itself reads none."""

from __future__ import annotations

import os
from collections.abc import Mapping

from shop.runtime.secrets import Unreadable, elsewhere

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
        from deployments.local.environment import set_environment

        set_environment(values)
