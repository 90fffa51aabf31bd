"""This run's share of the payment gateway: so many calls at once, whatever one process may make."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

_share: ContextVar[asyncio.Semaphore | None] = ContextVar("share_of_the_payment_gateway", default=None)


@contextmanager
def at_most(calls: int) -> Iterator[None]:
    """Limits the gateway calls of the block, and of the asyncio tasks that begin in it, to so many at once."""
    token = _share.set(asyncio.Semaphore(calls))
    try:
        yield
    finally:
        _share.reset(token)


@asynccontextmanager
async def turn() -> AsyncIterator[None]:
    """Waits until the share allows another call, and holds its place during the block."""
    share = _share.get()
    if share is None:
        yield
        return
    async with share:
        yield
