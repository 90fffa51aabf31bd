"""Files that are there wholly or not at all, and that nobody else on this machine can read."""

from __future__ import annotations

import itertools
import os
import stat
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

_PROCESS = f"{os.getpid()}-{uuid4().hex[:12]}"
_COUNTER = itertools.count()
_PRIVATE_FOLDER, _PASSABLE_FOLDER, PRIVATE_FILE = 0o700, 0o710, 0o600
_SET_UP_BY_A_PERSON = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_OURS = (
    *("confirmation", "labels", "logs", "mail", "prefect", "run", "sandbox", "web"),
    *("metrics-token", "orders-api-key", "run.env"),
)
"""What is written in `VAR_DIR`, but for the data of PostgreSQL, which sees to that itself."""


def make_private(folder: Path, group: int | None = None, *, ours: bool = False) -> None:
    """Makes the folder, and those above it that are not there, for their owner alone. `group`: may pass through, and no more. What is there
    already stays as it is; the folder itself is closed too if it is `ours`, and this process's own user's."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)
        _close(each, group)
    if ours and not missing and not folder.is_symlink() and folder.stat().st_uid == os.geteuid():
        _close(folder, group)


def _close(folder: Path, group: int | None) -> None:
    if group is not None:
        os.chown(folder, -1, group)
    folder.chmod(_PRIVATE_FOLDER if group is None else _PASSABLE_FOLDER)


def tighten(var_dir: Path) -> None:
    """Takes from others on this machine what an earlier version let them read in `VAR_DIR`: only what we write there, and only what is this
    process's own user's. A folder that is closed already is not looked into; links, and what a person has set up, stay as they are."""
    for name in _OURS:
        with suppress(OSError):
            _tighten(var_dir / name)


def _tighten(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        mode, is_folder = stat.S_IMODE(status.st_mode), stat.S_ISDIR(status.st_mode)
        if status.st_uid != os.geteuid() or mode & _SET_UP_BY_A_PERSON or not mode & 0o077:
            return
        if not is_folder and not (stat.S_ISREG(status.st_mode) and status.st_nlink == 1):
            return
        os.fchmod(descriptor, mode & 0o700)
    finally:
        os.close(descriptor)
    if is_folder:
        for name in os.listdir(path):  # noqa: PTH208  (only names; there may be a hundred thousand)
            with suppress(OSError):
                _tighten(path / name)


def write_atomic(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Puts the file in place under its name only when it is complete; a reader sees the old one or the new one. Writers in
    other processes, threads or machines do not disturb it. `durable` also survives a loss of power, for milliseconds.
    Only its owner can read it. Folders are made as needed. After a crash, what may be left over is a hidden file that ends in `.tmp`."""
    # Plain strings and descriptors: hundreds of labels a second come through here.
    folder, name = os.path.split(path)
    temporary = f"{folder}/.{name[:60]}.{_PROCESS}.{next(_COUNTER)}.tmp"
    try:
        try:
            _write(temporary, data, durable=durable)
        except FileNotFoundError:
            make_private(path.parent)
            _write(temporary, data, durable=durable)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise
    if durable:
        _sync_folder(path.parent)


def is_spelled_so(path: Path) -> bool:
    """Whether there is a file of exactly this name, also where the disk takes `ORDER-1` for `Order-1`."""
    return path.exists() and path.name in os.listdir(path.parent)  # noqa: PTH208  (only names)


def _write(path: str, data: bytes, *, durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
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
