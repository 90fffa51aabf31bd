"""Ensures that one supervisor runs per data folder."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from deployments.local.errors import AlreadyRunning, StackError
from shop.runtime.files import PRIVATE_FILE, make_private


class RunLock:
    """A lock of the process that runs the system in a data folder. The operating system releases it when
    the process dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Raises AlreadyRunning, with the holder, if another process has the lock; StackError if the
        folder is not writable."""
        try:
            make_private(self._path.parent)
            file = os.fdopen(
                os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE),
                "a+",
                encoding="utf-8",
            )
        except OSError as error:
            raise StackError(
                f"cannot write to {self._path.parent.parent} ({error.strerror}). "
                "If it was created by another user, such as root, run as that user, delete it, "
                "or choose another folder: VAR_DIR=/some/folder"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise AlreadyRunning(
                f"already running, with its data in {self._path.parent.parent}: {holder}. "
                "Stop that one (Ctrl-C in its terminal), or choose another folder: VAR_DIR=/some/folder"
            ) from None
        self._file = file
        self.say(f"process {os.getpid()}")

    def say(self, text: str) -> None:
        """Stores what `AlreadyRunning` shows in another process."""
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(text)
            self._file.flush()

    def release(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.truncate(0)
            self._file.close()
            self._file = None
