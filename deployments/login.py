"""Reads the credentials of Prefect's client from files, as Docker and Kubernetes mount secrets.

Prefect itself reads none."""

from __future__ import annotations

import os
from collections.abc import Mapping

from shop.runtime.secrets import Unreadable, elsewhere

CREDENTIALS = ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY")
"""`user:password` of a server, and the key of Prefect Cloud."""


class UnreadableLogin(Exception):
    """A credential's file cannot be read, or contradicts the setting itself: the message says which."""


def from_file(name: str, values: Mapping[str, str | None]) -> str | None:
    """Returns the credential in the file that `NAME_FILE` names; None if the values have no such name. Raises
    `UnreadableLogin`."""
    found = elsewhere(name, {each: values.get(each) for each in (name, f"{name}_FILE")})
    if isinstance(found, Unreadable):
        raise UnreadableLogin(found.why)
    return found


def read_login_files() -> None:
    """Replaces `PREFECT_API_AUTH_STRING_FILE` and `PREFECT_API_KEY_FILE` in this process's environment by
    the files' contents. Processes of flow runs inherit it. Raises `UnreadableLogin`."""
    values: dict[str, str | None] = {}
    for name in CREDENTIALS:
        if (found := from_file(name, os.environ)) is not None:
            values |= {name: found, f"{name}_FILE": None}
    if values:
        from deployments.local.environment import set_environment

        set_environment(values)
