"""Writes files atomically, and makes files and folders private."""

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
_SPECIAL_BITS = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX
_OURS = (
    *("confirmation", "labels", "logs", "mail", "prefect", "run", "sandbox", "web"),
    *("metrics-token", "orders-api-key", "run.env"),
)
"""Our files and folders in `VAR_DIR`, except for PostgreSQL's data, whose permissions PostgreSQL sets."""


def make_private(folder: Path, group: int | None = None, *, ours: bool = False) -> None:
    """Creates the folder and its missing parents, accessible to their owner only. `group` may only traverse
    them. Existing folders stay unchanged, except for the folder itself if it is `ours` and belongs to this
    process's user."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)
        _restrict(each, group)
    if ours and not missing and not folder.is_symlink() and folder.stat().st_uid == os.geteuid():
        _restrict(folder, group)


def _restrict(folder: Path, group: int | None) -> None:
    if group is not None:
        os.chown(folder, -1, group)
    folder.chmod(_PRIVATE_FOLDER if group is None else _PASSABLE_FOLDER)


def tighten(var_dir: Path) -> None:
    """Removes other users' permissions in `VAR_DIR`, which an earlier version granted. Affects only what we
    write there, and only what belongs to this process's user. Skips the content of folders that are already
    private, links, and files with special permission bits, which a person has set."""
    for name in _OURS:
        with suppress(OSError):
            _tighten(var_dir / name)


def _tighten(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        mode, is_folder = stat.S_IMODE(status.st_mode), stat.S_ISDIR(status.st_mode)
        if status.st_uid != os.geteuid() or mode & _SPECIAL_BITS or not mode & 0o077:
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
    """Writes the file atomically: a reader sees the old one or the new one, whichever processes, threads or
    machines write it. `durable` also survives a power loss, and takes milliseconds. Only the owner can read
    the file. Creates missing folders. A crash may leave a hidden file that ends in `.tmp`."""
    # Plain strings and descriptors for speed: hundreds of labels per second are written here.
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


def has_exact_name(path: Path) -> bool:
    """Returns whether a file with exactly this name exists, also on file systems that ignore case."""
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
