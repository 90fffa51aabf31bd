"""Concurrency limits: of all workers together, and of the calls within one run."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar


class Limit:
    """A named limit. `most`: returns what one run may have of it; `total`: all workers together."""

    def __init__(self, name: str, most: Callable[[], int], total: Callable[[], int]) -> None:
        self.name, self.most, self.total = name, most, total
        self._turns: ContextVar[Turns | None] = ContextVar(f"turns of {name}", default=None)

    @property
    def is_held(self) -> bool:
        """Whether a share of the limit is held here already."""
        return self._turns.get() is not None

    @contextmanager
    def within(self, turns: Turns) -> Iterator[None]:
        """Limits the concurrent calls of the block, and of the asyncio tasks that it starts."""
        token = self._turns.set(turns)
        try:
            yield
        finally:
            self._turns.reset(token)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits until this run's share allows another call, and counts the block as one."""
        turns = self._turns.get()
        if turns is None:
            yield
            return
        await turns.take()
        try:
            yield
        finally:
            turns.give_back()


class Turns:
    """A semaphore whose size can change. Those that wait get their turns in sequence."""

    def __init__(self, size: int) -> None:
        self.size, self.taken = size, 0
        self._waiting = deque[asyncio.Future[None]]()

    @property
    def is_full(self) -> bool:
        return self.taken >= self.size

    async def take(self) -> None:
        """Waits for a turn. The wait does not count towards the time limit of the call (`timed`)."""
        if self.taken < self.size and not self._waiting:
            self.taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        timer = _timer.get()
        if timer is not None:
            timer.pause()
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.give_back()
            else:
                turn.cancel()
            raise
        finally:
            if timer is not None:
                timer.resume()

    def give_back(self) -> None:
        self.taken -= 1
        self._pass_on()

    def resize(self, size: int) -> None:
        """Changes the size. Turns that are taken beyond it end by themselves."""
        self.size = size
        self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting and self.taken < self.size:
            turn = self._waiting.popleft()
            if not turn.done():
                self.taken += 1
                turn.set_result(None)


class CallTimer:
    """Measures how long a call has run, without its waits for turns."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._paused_at: float | None = None
        self.expired = False
        """Whether the call has used up its time."""

    @property
    def seconds(self) -> float:
        return (self._paused_at or time.monotonic()) - self._began

    def pause(self) -> None:
        self._paused_at = time.monotonic()

    def resume(self) -> None:
        if self._paused_at is not None:
            self._began += time.monotonic() - self._paused_at
            self._paused_at = None


_timer: ContextVar[CallTimer | None] = ContextVar("call timer", default=None)


def timed(timer: CallTimer) -> None:
    """Lets the timer measure the call that the current asyncio task makes."""
    _timer.set(timer)
