"""Concurrency limits for calls to an external system:
named across all workers, and a share within one run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar


class Limit:
    """A named concurrency limit. `most` returns the limit of one run's concurrent calls."""

    def __init__(self, name: str, most: Callable[[], int]) -> None:
        self.name, self.most = name, most
        self._share: ContextVar[asyncio.Semaphore | None] = ContextVar(f"share of {name}", default=None)

    @contextmanager
    def at_most(self, calls: int) -> Iterator[None]:
        """Limits the concurrent calls of the block, and of the asyncio tasks that it starts."""
        token = self._share.set(asyncio.Semaphore(calls))
        try:
            yield
        finally:
            self._share.reset(token)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits until this run's share allows another call, and counts the block as one."""
        share = self._share.get()
        if share is None:
            yield
            return
        async with share:
            yield
