"""Failpoints: a named point before and after every side effect, where crash tests can kill the process.

Every side effect (a commit, an external call, a file) is declared where it happens, as a `Failpoint`. Unless
a test watches, passing a failpoint costs one comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import TracebackType

_declared: dict[str, None] = {}
_watcher: Callable[[str], None] | None = None


class Failpoint:
    """A named side effect. `with failpoint(name):` passes the point before it, and the point after it unless
    the block raised."""

    __slots__ = ("after", "before")

    def __init__(self, name: str) -> None:
        self.before, self.after = f"before {name}", f"after {name}"
        _declared.update({self.before: None, self.after: None})

    def __enter__(self) -> None:
        if _watcher is not None:
            _watcher(self.before)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if _watcher is not None and kind is None:
            _watcher(self.after)


@lru_cache(maxsize=1024)
def failpoint(name: str) -> Failpoint:
    """Returns the failpoint of this name; declares it on first use."""
    return Failpoint(name)


def declared() -> tuple[str, ...]:
    """Returns every point that the imported modules declare."""
    return tuple(_declared)


def watch(watcher: Callable[[str], None] | None) -> None:
    """Calls `watcher` with each point as it is passed, for tests. None: stops that."""
    global _watcher  # noqa: PLW0603
    _watcher = watcher
