"""Files that are there wholly or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4


def write_atomic(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Puts the file in place under its name only when it is complete; a reader sees the old one or the new one. Writers in
    other processes, threads or machines do not disturb it. `durable` also survives a loss of power, for milliseconds.
    Folders are made as needed. After a crash, what may be left over is a hidden file that ends in `.tmp`."""
    temporary = path.parent / f".{path.stem[:60]}.{uuid4().hex}.tmp"
    try:
        try:
            _write(temporary, data, durable=durable)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(temporary, data, durable=durable)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        _sync_folder(path.parent)


def _write(path: Path, data: bytes, *, durable: bool) -> None:
    with path.open("xb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
