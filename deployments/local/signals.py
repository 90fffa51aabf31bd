"""Handles Ctrl-C, SIGTERM and a closed terminal during start and stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from deployments.local.errors import Interrupted

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def handle_signals() -> None:
    """Makes SIGINT and SIGTERM end this process even if it was started with them ignored, by a shell in
    the background (`&`) or by `nohup`. Some programs, such as Prefect's worker, hang on SIGTERM while
    SIGINT is ignored. SIGHUP is not changed: `nohup` exists to ignore it."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


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
