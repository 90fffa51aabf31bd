"""Ctrl-C, SIGTERM and a closed terminal, while things are started and stopped."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from deployments.local.errors import Interrupted

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heed_signals() -> None:
    """Lets SIGINT and SIGTERM end this process, although it was started with them ignored: by a shell in the background (`&`), or by
    `nohup`. Some programs, Prefect's worker among them, hang on SIGTERM while SIGINT is ignored. SIGHUP stays as it is: ignoring that is
    what `nohup` is for."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


class SignalGuard:
    """Says what the signals that ask a process to end do, until `restore`. Does nothing outside the main thread, which alone may
    say it; a signal that is ignored on purpose stays ignored."""

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}

    def raise_interrupted(self) -> None:
        """SIGTERM and SIGHUP end the block as Ctrl-C does, so that everything is stopped."""

        def interrupt(number: int, _frame: FrameType | None) -> None:
            raise Interrupted(signal.Signals(number).name)

        self._set(interrupt, signal.SIGTERM, signal.SIGHUP)

    def call(self, function: Callable[[], None]) -> None:
        """From now on they only call the function."""
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
