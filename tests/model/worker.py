"""A simulated worker: an event loop of its own that the test advances by hand,
from one await of the outside to the next.

Whatever the worker asks of the database or of the gateway waits at a `Point` until the test lets it continue.
Time stands still unless the test lets it pass. So every interleaving of several workers, and a crash at every
await, can be had, and had again.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

from saga.errors import LeaseLost

_MAX_CANCELS = 50
"""How often a dead worker's tasks are cancelled."""


class Dead(BaseException):
    """What a dead worker meets wherever it turns to the outside.
    No code of the shop catches it, so nothing is tried again."""


class _Idle(selectors.SelectSelector):
    """Stops the loop when nothing is ready. Nothing real is waited for:
    the sockets are read by the test (`connection.py`)."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: Loop | None = None

    def select(self, timeout: float | None = None) -> list[Any]:
        if self.loop is not None and (timeout is None or timeout > 0):
            self.loop.until_timer = timeout
            self.loop.stop()
        return []


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock is the test's."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.clock = 1000.0
        self.until_timer: float | None = None
        """Seconds until the next timer; None if there is none."""
        self.tasks: set[asyncio.Task[Any]] = set()
        """Those that have not ended."""
        selector = _Idle()
        super().__init__(selector)
        selector.loop = self
        self.set_exception_handler(lambda _loop, _context: None)  # a dead worker's tasks are not awaited

    def create_task(self, *arguments: Any, **options: Any) -> asyncio.Task[Any]:
        task = super().create_task(*arguments, **options)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def _make_self_pipe(self) -> None:
        """For waking a loop from another thread or a signal: there are none."""

    def _close_self_pipe(self) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def time(self) -> float:
        return self.clock

    def settle(self) -> None:
        """Runs what can run, until everything waits for the test or for time to pass."""
        self.run_forever()


class Point:
    """A place where a worker waits for the test."""

    def __init__(self, loop: Loop, what: str, kind: str, ready: Callable[[], bool] | None) -> None:
        self.what, self.kind = what, kind
        self._ready = ready
        self.passed: asyncio.Future[str | None] = loop.create_future()

    @property
    def ready(self) -> bool:
        """Whether it can be passed: not while a statement waits for another's lock."""
        return self._ready is None or self._ready()


class Worker:
    """Runs one flow. `fences`: of the orders that it has claimed."""

    def __init__(
        self, name: str, story: Callable[[], Coroutine[Any, Any, Any]], *, fine: bool = False
    ) -> None:
        """`fine`: it can be stopped before every statement,
        and not only before and at the end of a transaction."""
        self.name, self.fine = name, fine
        self.points: list[Point] = []
        self.fences: dict[str, int] = {}
        self.dead = False
        self.loop = Loop(self)
        self.order: str | None = None
        """Whose run it is, if it is one order's."""
        self.withdraws: str | None = None
        """The order that it had when it was cancelled, and that was not shipped then."""
        self.task: asyncio.Task[Any] = self.loop.create_task(story(), name=name)

    def __repr__(self) -> str:
        return self.name

    @property
    def ended(self) -> bool:
        return self.task.done()

    @property
    def ready(self) -> list[Point]:
        """The points that can be passed now, in the sequence in which they were reached."""
        return [point for point in self.points if point.ready]

    async def point(self, what: str, kind: str, ready: Callable[[], bool] | None = None) -> str | None:
        """Waits for the test. Returns what is to go wrong here, if anything."""
        if self.dead:
            raise Dead
        point = Point(self.loop, what, kind, ready)
        self.points.append(point)
        try:
            return await point.passed
        finally:
            self.points.remove(point)

    def step(self, pick: int = 0, trouble: str | None = None) -> Point | None:
        """Passes one point, the `pick`-th; or,
        if nothing but time keeps the worker waiting, lets time pass until its next timer."""
        if ready := self.ready:
            point = ready[pick % len(ready)]
            if not point.passed.done():
                point.passed.set_result(trouble)
            self.loop.settle()
            return point
        if not self.points and not self.ended and self.loop.until_timer is not None:
            self.sleep(self.loop.until_timer)
        return None

    def sleep(self, seconds: float) -> None:
        """Lets time pass: what waits only for time continues, in sequence."""
        until = self.loop.clock + seconds
        self.loop.settle()
        while self.loop.until_timer is not None and self.loop.clock + self.loop.until_timer <= until:
            self.loop.clock += self.loop.until_timer
            self.loop.settle()
        self.loop.clock = max(self.loop.clock, until)
        self.loop.settle()

    def cancel(self) -> None:
        self.task.cancel()
        self.loop.settle()

    def clean_up(self) -> None:
        """Clears away what is left of a dead worker
        whose connections are all cut."""
        assert self.dead
        if self.points:
            for point in self.points:
                if not point.passed.done():
                    point.passed.set_exception(Dead())
            self.loop.settle()
        for _ in range(_MAX_CANCELS):
            if not self.loop.tasks:
                break
            for task in list(self.loop.tasks):
                task.cancel()
            self.loop.settle()
        else:
            raise AssertionError(f"{self.name} does not end when it is cancelled: {self.loop.tasks}")
        self.loop.close()

    def failure(self) -> BaseException | None:
        """Why its flow ended, unless it ended well or as flows may end:
        cancelled, or its order taken over."""
        if not self.ended or self.task.cancelled():
            return None
        error = self.task.exception()
        return None if isinstance(error, LeaseLost) else error


def current() -> Worker | None:
    """The worker whose code runs just now."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return loop.worker if isinstance(loop, Loop) else None
