"""Orders that keep coming into the fleet, as a shop sends them: sent again until they are taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx

_PROBE_SECONDS = 0.2
_JOIN_SECONDS = 120
_PAUSE_SECONDS = 0.3
"""Before an order is sent again that was not taken."""


@dataclass
class Sent:
    """When an order was first sent, and when it was taken."""

    at: datetime
    taken: datetime | None = None
    error: str = ""
    """Why it was not taken the last time."""


@dataclass
class Load:
    """Sends orders at a steady pace in threads of its own; each continues until its order is accepted."""

    take: Callable[[dict[str, Any]], None]
    """Raises while the order cannot be taken."""
    orders: Iterator[dict[str, Any]]
    pause: float
    """Seconds between two orders."""
    sent: dict[str, Sent] = field(default_factory=dict)

    @contextmanager
    def running(self) -> Iterator[None]:
        stopping = threading.Event()
        threads: list[threading.Thread] = []

        def send() -> None:
            due = time.monotonic()
            for order in self.orders:
                if stopping.wait(max(0.0, due - time.monotonic())):
                    return
                due += self.pause
                thread = threading.Thread(target=self._until_taken, args=(order,), daemon=True)
                thread.start()
                threads.append(thread)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        try:
            yield
        finally:
            stopping.set()
            sender.join()
            for thread in threads:
                thread.join(_JOIN_SECONDS)
            left = {order_id: each.error for order_id, each in self.sent.items() if each.taken is None}
            assert not left, f"these orders were never taken: {left}"

    def _until_taken(self, order: dict[str, Any]) -> None:
        sent = self.sent[order["id"]] = Sent(datetime.now(UTC))
        while sent.taken is None:
            try:
                self.take(order)
                sent.taken = datetime.now(UTC)
            except Exception as error:  # noqa: BLE001  (whatever is unavailable: the shop sends it again)
                sent.error = repr(error)
                time.sleep(_PAUSE_SECONDS)


@dataclass
class Probe:
    """Asks an address five times a second, and notes when it did not answer."""

    url: str
    outages: list[tuple[float, float]] = field(default_factory=list)
    """Begin and end of each time, on the monotonic clock."""

    @contextmanager
    def running(self) -> Iterator[None]:
        stopping = threading.Event()

        def ask() -> None:
            since: float | None = None
            with httpx.Client(timeout=2) as client:
                while not stopping.wait(_PROBE_SECONDS):
                    now = time.monotonic()
                    try:
                        good = client.get(self.url).status_code == httpx.codes.OK
                    except httpx.HTTPError:
                        good = False
                    if not good and since is None:
                        since = now
                    if good and since is not None:
                        self.outages.append((since, time.monotonic()))
                        since = None
            if since is not None:
                self.outages.append((since, time.monotonic()))

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()

    def longest(self, begin: float, end: float) -> float:
        """Returns the longest time without an answer that began between these times, in seconds."""
        return max((until - since for since, until in self.outages if begin <= since < end), default=0.0)
