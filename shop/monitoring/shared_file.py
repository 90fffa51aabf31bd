"""A file of lines that several processes write side by side, and that is begun anew when it is large.

Lines go in writes at the file's end, which the operating system does not mix with others'. Whoever finds the file too large takes a
lock, looks again, and renames it; the others see that the name stands for another file now, and open that.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from shop.files import PRIVATE_FILE, make_private

KEPT = 5
"""Older files: `name.1` is the latest of them."""
_A_WRITE = 64_000


def _writes(lines: Sequence[bytes]) -> Iterator[bytes]:
    """The lines, whole ones together in at most so many bytes."""
    some: list[bytes] = []
    size = 0
    for line in lines:
        if some and size + len(line) > _A_WRITE:
            yield b"".join(some)
            some, size = [], 0
        some.append(line)
        size += len(line)
    if some:
        yield b"".join(some)


class SharedFile:
    """Opens at the first line. Raises OSError if it cannot be written. `mode`: of a file that is made."""

    def __init__(self, path: Path, most_bytes: int, mode: int = PRIVATE_FILE) -> None:
        self.path, self.most_bytes, self._mode = path, most_bytes, mode
        self._descriptor: int | None = None
        self._inode = 0
        self._lock = threading.Lock()

    def write_all(self, lines: Sequence[bytes]) -> None:
        """Adds the lines, each with its end, in writes of some of them."""
        with self._lock:
            for some in _writes(lines):
                os.write(self._current(len(some)), some)

    def close(self) -> None:
        """The next line opens it again."""
        with self._lock:
            self._close()

    def _current(self, more: int) -> int:
        with suppress(FileNotFoundError):
            found = self.path.stat()
            if found.st_size and found.st_size + more > self.most_bytes:
                self._rotate(more)
            elif self._descriptor is not None and found.st_ino == self._inode:
                return self._descriptor
        return self._open()

    def _open(self) -> int:
        self._close()
        make_private(self.path.parent)
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, self._mode)
        self._inode = os.fstat(self._descriptor).st_ino
        return self._descriptor

    def _rotate(self, more: int) -> None:
        lock = os.open(self._named("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, self._mode)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # gone with the process, however that ends
            if self.path.stat().st_size + more <= self.most_bytes:
                return  # somebody else was first
            for older in range(KEPT, 1, -1):
                with suppress(FileNotFoundError):
                    self._named(str(older - 1)).replace(self._named(str(older)))
            self.path.replace(self._named("1"))
        finally:
            os.close(lock)

    def _named(self, what: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{what}")

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
