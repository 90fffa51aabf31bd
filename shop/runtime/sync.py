"""Runs asynchronous code for synchronous callers, such as shell commands, notebooks and scripts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from saga.database import close_engine
from shop.payments.gateways import close_gateway

T = TypeVar("T")


def run_sync(make: Callable[[], Awaitable[T]]) -> T:
    """Runs the awaitable of `make` in a new event loop and thread, so that the caller may have a running
    loop. Closes the connections to the database and the gateway that were opened there. Raises its
    exceptions."""

    async def run() -> T:
        try:
            return await make()
        finally:
            await close_gateway()
            await close_engine()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(run())).result()
