"""What long-running processes share: the signals that end them, and whether another process is alive."""

from __future__ import annotations

import signal
from contextlib import suppress

import psutil


def handle_signals() -> None:
    """Makes SIGINT and SIGTERM end this process even if it was started with them ignored, by a shell in
    the background (`&`) or by `nohup`. Some programs, such as Prefect's worker, hang on SIGTERM while
    SIGINT is ignored. SIGHUP is not changed: `nohup` exists to ignore it."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)


def is_alive(process: psutil.Process) -> bool:
    """Returns whether the process runs, and is no zombie that waits for its parent."""
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
