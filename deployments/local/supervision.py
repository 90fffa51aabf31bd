"""The process that runs the local system: the only one in its data folder. It stops everything on a
signal, and restarts parts that have died: at once, then after growing pauses."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

from deployments.errors import AlreadyRunning, Interrupted, StackError
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


_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SignalGuard:
    """Replaces the handlers of the signals that ask a process to end, until `restore`. Only has an effect
    in the main thread, as Python requires; a signal that is ignored on purpose stays ignored."""

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}

    def raise_interrupted(self) -> None:
        """Makes SIGTERM and SIGHUP raise `Interrupted`, as Ctrl-C raises, so that everything is stopped."""

        def interrupt(number: int, _frame: FrameType | None) -> None:
            raise Interrupted(signal.Signals(number).name)

        self._set(interrupt, signal.SIGTERM, signal.SIGHUP)

    def call(self, function: Callable[[], None]) -> None:
        """Makes the signals only call the function."""
        self._set(lambda _number, _frame: function(), *_ENDINGS)

    def restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _set(self, handler: Callable[[int, FrameType | None], None], *signals: signal.Signals) -> None:
        if threading.current_thread() is threading.main_thread():
            for each in signals:
                if signal.getsignal(each) is not signal.SIG_IGN:
                    before = signal.signal(each, handler)
                    self._before.setdefault(each, before)


_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 60.0
"""First and longest pause, in seconds."""
_STEADY_SECONDS = 60.0
"""Uptime in seconds after which a part counts as healthy: its next death counts as the first."""


@dataclass(frozen=True, slots=True)
class Revival:
    """An attempt to restart a part."""

    part: str
    pause: float
    """Seconds until the next attempt, if it is needed."""
    error: str = ""
    """Why it could not be started; empty on success."""

    def __str__(self) -> str:
        if self.error:
            retry = f"next attempt in {self.pause:g} s"
            return f"{self.part}: stopped, and could not be restarted; {retry}. {self.error}"
        return f"{self.part}: stopped, and was restarted"


class Pauses:
    """The pauses of one part."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tries = 0
        self._tried_at = 0.0
        self._last_error = ""

    @property
    def pause(self) -> float:
        """Seconds between attempts: none before the first, then twice as long each time."""
        return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (self._tries - 1)) if self._tries else 0.0

    def attempt(self, part: str, start: Callable[[], None]) -> Revival | None:
        """Starts the part unless the pause is not over. Call it while the part does not run."""
        since = self._clock() - self._tried_at
        if since < self.pause:
            return None
        if self._tries and not self._last_error and since > _STEADY_SECONDS + self.pause:
            self._tries = 0
        self._tries += 1
        error = ""
        try:
            start()
        except Exception as failure:  # noqa: BLE001  (any error: the other parts keep running)
            error = str(failure).strip() or type(failure).__name__
        shown = error.partition("\n")[0] if error == self._last_error else error
        self._tried_at, self._last_error = self._clock(), error
        return Revival(part, self.pause, shown)
