"""Running asynchronous code for callers that cannot await, such as a shell command, a notebook or a script."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from saga.database import close_engine
from shop.payments.gateways import close_gateway

T = TypeVar("T")


def run_sync(make: Callable[[], Awaitable[T]]) -> T:
    """Runs what `make` makes in an event loop and a thread of its own, so that the caller may have a loop, too. Closes the connections
    to the database and the gateway that it opened there. Raises what it raises."""

    async def run() -> T:
        try:
            return await make()
        finally:
            await close_gateway()
            await close_engine()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(run())).result()
