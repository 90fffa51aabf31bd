"""One supervisor for one data folder."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import IO

from deployments.local.errors import AlreadyRunning, StackError
from shop.runtime.files import PRIVATE_FILE, make_private


class RunLock:
    """Held by the process that runs the world in a data folder. The system lets go of it when that process dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Raises AlreadyRunning, saying who has it, when another process does; StackError when the folder cannot be written."""
        try:
            make_private(self._path.parent)
            file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE), "a+", encoding="utf-8")
        except OSError as error:
            raise StackError(
                f"cannot write to {self._path.parent.parent} ({error.strerror}). If it was made by another user, such as root, "
                "run as that one, delete it, or give this one a folder of its own: VAR_DIR=/some/folder"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise AlreadyRunning(
                f"it is running already, with its data in {self._path.parent.parent}: {holder}. "
                "Stop that one (Ctrl-C where it runs), or give this one a folder of its own: VAR_DIR=/some/folder"
            ) from None
        self._file = file
        self.say(f"process {os.getpid()}")

    def say(self, text: str) -> None:
        """What another process is told that wants the same folder."""
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
