"""Small files about the running processes, written atomically."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from shop.runtime.files import write_atomic

_KEY_BYTES = 32


def write_whole(path: Path, text: str) -> None:
    """Replaces the file atomically: a reader sees the old text or the new one. Only the owner can read it."""
    write_atomic(path, text.encode())


def read_if_there(path: Path) -> str:
    """Returns the file's text; empty if it is missing or unreadable."""
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def key_in(file: Path, prefix: str = "") -> str:
    """Returns the secret in the file. If there is none, creates one after the prefix. Only the owner can
    read the file."""
    if not (key := read_if_there(file).strip()):
        key = prefix + secrets.token_urlsafe(_KEY_BYTES)
        write_whole(file, key + "\n")
    return key


def tail(path: Path, lines: int = 15) -> str:
    """Returns the last lines of a log."""
    return "\n".join(read_if_there(path).rstrip().splitlines()[-lines:])


def poll(condition: Callable[[], bool], seconds: float) -> bool:
    """Waits for the condition. Returns whether it became true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)
    return True
