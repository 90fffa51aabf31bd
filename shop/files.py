"""Files that are there wholly or not at all."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

_PROCESS = f"{os.getpid()}-{uuid4().hex[:12]}"
_COUNTER = itertools.count()


def write_atomic(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Puts the file in place under its name only when it is complete; a reader sees the old one or the new one. Writers in
    other processes, threads or machines do not disturb it. `durable` also survives a loss of power, for milliseconds.
    Folders are made as needed. After a crash, what may be left over is a hidden file that ends in `.tmp`."""
    # Plain strings and descriptors: hundreds of labels a second come through here.
    folder, name = os.path.split(path)
    temporary = f"{folder}/.{name[:60]}.{_PROCESS}.{next(_COUNTER)}.tmp"
    try:
        try:
            _write(temporary, data, durable=durable)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(temporary, data, durable=durable)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise
    if durable:
        _sync_folder(path.parent)


def _write(path: str, data: bytes, *, durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
