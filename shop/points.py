"""The points at which a process may die, by name, so that tests can kill one exactly there.

Whatever takes effect (a commit, a call to the outside, a file) is declared where it happens, as an `Effect` with a point before it and one
after it. Unless somebody watches, passing a point costs a comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import TracebackType

_declared: dict[str, None] = {}
_watcher: Callable[[str], None] | None = None


class Effect:
    """Something that takes effect. `with effect:` passes its points: the one after it only if nothing was raised."""

    __slots__ = ("after", "before")

    def __init__(self, name: str) -> None:
        self.before, self.after = f"before {name}", f"after {name}"
        _declared.update({self.before: None, self.after: None})

    def __enter__(self) -> None:
        if _watcher is not None:
            _watcher(self.before)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if _watcher is not None and kind is None:
            _watcher(self.after)


@lru_cache(maxsize=1024)
def effect(name: str) -> Effect:
    """The effect of this name, declared when it is asked for first."""
    return Effect(name)


def declared() -> tuple[str, ...]:
    """Every point of what has been imported."""
    return tuple(_declared)


def watch(watcher: Callable[[str], None] | None) -> None:
    """Is told each point as it is passed; for tests. None: nobody is."""
    global _watcher  # noqa: PLW0603
    _watcher = watcher
