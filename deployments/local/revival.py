"""Restarts parts that have died: at once, then after growing pauses."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

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
