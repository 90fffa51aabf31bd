"""When a part that has died is started again: at once, then after pauses that grow, so that one that dies again and again does no harm."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 60.0
"""Seconds."""
_STEADY_SECONDS = 60.0
"""Seconds of running after which a part counts as healthy: its next death is counted as the first."""


@dataclass(frozen=True, slots=True)
class Revival:
    """A try to start a part again."""

    part: str
    pause: float
    """Seconds until the next try, if it is needed."""
    error: str = ""
    """Why it could not be started; empty: it was."""

    def __str__(self) -> str:
        if self.error:
            return f"{self.part}: has stopped, and could not be started; tried again in {self.pause:g} s. {self.error}"
        return f"{self.part}: had stopped, was started again"


class Pauses:
    """Those of one part."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tries = 0
        self._tried_at = 0.0
        self._last_error = ""

    @property
    def pause(self) -> float:
        """Seconds from one try to the next: none before the first, then twice as long each time."""
        return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (self._tries - 1)) if self._tries else 0.0

    def attempt(self, part: str, start: Callable[[], None]) -> Revival | None:
        """Starts it, unless it is too soon. To be called when it does not run."""
        since = self._clock() - self._tried_at
        if since < self.pause:
            return None
        if self._tries and not self._last_error and since > _STEADY_SECONDS + self.pause:
            self._tries = 0
        self._tries += 1
        error = ""
        try:
            start()
        except Exception as failure:  # noqa: BLE001  (whatever it is, the other parts run on)
            error = str(failure).strip() or type(failure).__name__
        shown = error.partition("\n")[0] if error == self._last_error else error
        self._tried_at, self._last_error = self._clock(), error
        return Revival(part, self.pause, shown)
