"""Starts flows in the background: the Prefect server may be slow or unavailable."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Starter:
    """Calls `start` soon after `ring`, in its own thread, at most once in `pause_seconds`."""

    def __init__(self, name: str, start: Callable[[], object], pause_seconds: float = 1) -> None:
        self._start, self._pause = start, pause_seconds
        self._rung, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Starter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Does not wait for a start in progress."""
        self._over.set()
        self._rung.set()

    def ring(self) -> None:
        """Requests a start. Never raises, never waits."""
        self._rung.set()

    def _run(self) -> None:
        while True:
            self._rung.wait()
            if self._over.is_set():
                return
            self._rung.clear()
            try:
                self._start()
            except Exception as error:  # noqa: BLE001  (its work is stored: the schedule starts it)
                log.warning(
                    "%s could not be started (%s): the schedule starts it",
                    self._thread.name,
                    type(error).__name__,
                )
            self._over.wait(self._pause)
