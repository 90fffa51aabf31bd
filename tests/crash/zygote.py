"""The parent of workers that will be killed: everything is imported once, and each worker is a fork, alive in milliseconds.

Reads requests from standard input, one line of JSON each, and answers with lines of JSON: `{"started": pid}` at once, and
`{"ended": pid, "status": n}` when it is over (a negative status is the signal that killed it).
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from flows.recover_orders import recover_orders
from shop import intake, points
from shop.desk.cancel import ask_to_cancel
from shop.settings import settings


def main() -> None:
    """Until standard input is closed."""
    ready, wakeup = os.pipe()
    for end in (ready, wakeup):
        os.set_blocking(end, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
    watched = selectors.DefaultSelector()
    watched.register(sys.stdin.fileno(), selectors.EVENT_READ)
    watched.register(ready, selectors.EVENT_READ)
    if threading.active_count() > 1:
        raise RuntimeError(f"a process with threads cannot be forked safely: {threading.enumerate()}")
    _tell(ready=os.getpid(), points=points.declared())
    unread = b""
    while True:
        for key, _ in watched.select():
            if key.fd == ready:
                os.read(ready, 4096)
                _reap()
                continue
            if not (more := os.read(key.fd, 1 << 16)):
                return
            *lines, unread = (unread + more).split(b"\n")
            for line in lines:
                _start(json.loads(line))


def _tell(**said: Any) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


def _reap() -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _tell(ended=pid, status=os.waitstatus_to_exitcode(status))


def _start(request: dict[str, Any]) -> None:
    pid = os.fork()
    if pid:
        _tell(started=pid)
        return
    status = 70
    try:
        _become(request)
        asyncio.run(_work(request["lane"], request["orders"], _Watcher(request)))
        status = 0
    finally:
        sys.stderr.flush()
        os._exit(status)


def _become(request: dict[str, Any]) -> None:
    """A worker of its own: nothing of the parent's pipes and signals."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setpgid(0, 0)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for ours, theirs in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(ours, theirs)
    os.environ.update(request["environment"])
    settings.cache_clear()


class _Watcher:
    """Dies at one point, fails at another once, or writes down those that it passes."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._kill_at, self._fail_at, self._passed = request.get("kill_at"), request.get("fail_at"), request.get("passed")

    def __call__(self, point: str) -> None:
        if self._passed:
            with Path(self._passed).open("a") as file:
                file.write(point + "\n")
        if point == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if point == self._fail_at:
            self._fail_at = None  # once
            raise RuntimeError(f"made to fail {point}")


async def _work(lane: str, orders: list[dict[str, Any]], watcher: _Watcher) -> None:
    if lane == "return":  # until it has arrived, it is any order
        await process_order(orders[0], return_state=True)
    points.watch(watcher)
    if lane == "process_order":
        await process_order(orders[0], return_state=True)
    elif lane == "pending":
        intake.submit(orders)
        await process_pending_orders(drain_seconds=0, return_state=True)
    elif lane == "return":
        await ask_to_cancel(orders[0]["id"], reason="does not fit", requested_by="customer")
        await process_pending_orders(drain_seconds=0, return_state=True)
    elif lane == "recover":
        await recover_orders(return_state=True)
    else:
        raise ValueError(lane)


if __name__ == "__main__":
    main()
