"""Reads secrets from outside the environment.

For each secret setting, such as `STRIPE_API_KEY`, there are two more:

- `STRIPE_API_KEY_FILE`: a file that contains it, as Docker and Kubernetes mount secrets;
- `STRIPE_API_KEY_BLOCK`: the name of a Prefect Secret block.

If several are set, their values must be equal. Errors name the setting and what to do, and never show a
secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo

_ALSO_SECRET = frozenset({"DATABASE_URL"})
"""Settings that contain a password but are not `SecretStr`, because they are shown without it."""
_LARGEST = 64_000
"""Limits how many characters of a secret's file are read."""
_block: Callable[[str], str] | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Replaces a secret that could not be read."""

    why: str


def blocks_from(read: Callable[[str], str]) -> None:
    """Sets the function that reads `..._BLOCK` settings: it takes a block's name, returns its secret, and may
    raise any exception."""
    global _block  # noqa: PLW0603
    _block = read


def is_secret(name: str, field: FieldInfo) -> bool:
    """Returns whether the setting can be in a file or a block."""
    return name in _ALSO_SECRET or field.annotation is SecretStr or SecretStr in get_args(field.annotation)


def elsewhere(name: str, given: Mapping[str, str | None]) -> str | Unreadable | None:
    """Reads the secret `name` (in capitals, as in the environment) from its file or block. None if neither is
    set."""
    file, block, here = (given.get(name + ending) for ending in ("_FILE", "_BLOCK", ""))
    if not file and not block:
        return None
    if file and block:
        return Unreadable(f"{name}_FILE and {name}_BLOCK are both set: unset one of them")
    found = _from_file(f"{name}_FILE", file) if file else _from_block(f"{name}_BLOCK", block or "")
    if here and not isinstance(found, Unreadable) and here != found:
        return Unreadable(
            f"{name} and {name}_{'FILE' if file else 'BLOCK'} have different values: unset one of them"
        )
    return found


def _from_file(setting: str, path: str) -> str | Unreadable:
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            text = file.read(_LARGEST).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        return Unreadable(f"{setting}={path} cannot be read: {reason}")
    return text or Unreadable(f"{setting}={path} is empty")


def _from_block(setting: str, name: str) -> str | Unreadable:
    if _block is None:
        return Unreadable(
            f"{setting}={name} is a Prefect block, which this program cannot read: "
            "set the secret in another way"
        )
    try:
        found = _block(name)
    except Exception as error:  # noqa: BLE001  (any error of the server or its client)
        return Unreadable(
            f"{setting}={name} cannot be read from the Prefect server: "
            f"{type(error).__name__}: {str(error)[:200]}"
        )
    return found.strip() or Unreadable(f"{setting}={name} is empty")
