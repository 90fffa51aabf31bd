"""Small files that say what is running: written whole or not at all."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from shop.runtime.files import write_atomic

_KEY_BYTES = 32


def write_whole(path: Path, text: str) -> None:
    """Replaces the file in one step, so that a reader sees the old text or the new one, never half of it. Only its owner can read it."""
    write_atomic(path, text.encode())


def read_if_there(path: Path) -> str:
    """The file's text, or nothing when it is not there or cannot be read."""
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def key_in(file: Path, prefix: str = "") -> str:
    """The secret that the file holds; a new one, after the prefix, if there is none. Only the file's owner can read it."""
    if not (key := read_if_there(file).strip()):
        key = prefix + secrets.token_urlsafe(_KEY_BYTES)
        write_whole(file, key + "\n")
    return key


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    return "\n".join(read_if_there(path).rstrip().splitlines()[-lines:])


def poll(condition: Callable[[], bool], seconds: float, every: float = 0.05) -> bool:
    """Whether the condition came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(every)
    return True
