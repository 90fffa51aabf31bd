"""Prefect's global concurrency limits: how much all workers together may ask of something outside.

Taking a slot costs tens of milliseconds, so a drain takes its share once, and its batches work within it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar

from prefect.concurrency.asyncio import concurrency
from prefect.logging import get_logger

PAYMENT_GATEWAY = "payment-gateway"
log = get_logger("orders")
_WAIT_SECONDS = 3
_SERVER_SECONDS = 5
"""For so long a server that does not answer is waited for, to take slots and to give them back."""
_LEASE_SECONDS = 60
"""After which the slots of a process that was killed are free again; Prefect's shortest."""
_held: ContextVar[frozenset[str]] = ContextVar("held_limits", default=frozenset())


@asynccontextmanager
async def slots(limit: str | None, occupy: int = 1) -> AsyncIterator[bool]:
    """Holds slots of the limit, unless the caller holds some already. Yields whether it got them.

    The limit protects the gateway from too much at once. A Prefect server that is away, or slots that do not come free, are no reason
    to leave an order half done: the work goes on within this process's own limit, the connection pool.
    """
    if limit is None or limit in _held.get():
        yield True
        return
    stack, got = AsyncExitStack(), False
    try:
        async with asyncio.timeout(_SERVER_SECONDS):
            held = concurrency(limit, occupy=occupy, timeout_seconds=_WAIT_SECONDS, lease_duration=_LEASE_SECONDS, strict=False)
            await stack.enter_async_context(held)
        got = True
    except Exception as error:  # noqa: BLE001  (whatever it was, orders go first)
        log.warning("no slots of the limit %s (%s); going on within this process's own", limit, type(error).__name__)
    token = _held.set(_held.get() | {limit})
    try:
        yield got
    finally:
        _held.reset(token)
        await _give_back(stack, limit)


async def _give_back(stack: AsyncExitStack, limit: str) -> None:
    """What was done with the slots stays done, also when the server does not hear that they are free; it finds out by itself."""
    try:
        async with asyncio.timeout(_SERVER_SECONDS):
            await stack.aclose()
    except Exception as error:  # noqa: BLE001
        log.warning("the slots of the limit %s are free again in %d s (%s)", limit, _LEASE_SECONDS, type(error).__name__)
