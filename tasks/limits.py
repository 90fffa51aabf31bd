"""Prefect's global concurrency limits: how much all workers together may ask of something outside.

Taking a slot costs tens of milliseconds, so a drain takes its share once, and its batches work within it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar

from prefect.concurrency.asyncio import concurrency
from prefect.logging import get_logger

PAYMENT_GATEWAY = "payment-gateway"
_WAIT_SECONDS = 3
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
    async with AsyncExitStack() as stack:
        got = True
        try:
            held = concurrency(limit, occupy=occupy, timeout_seconds=_WAIT_SECONDS, lease_duration=_LEASE_SECONDS, strict=False)
            await stack.enter_async_context(held)
        except Exception as error:  # noqa: BLE001  (whatever it was, orders go first)
            get_logger("orders").warning("no slots of the limit %s (%s); going on within this process's own", limit, type(error).__name__)
            got = False
        token = _held.set(_held.get() | {limit})
        try:
            yield got
        finally:
            _held.reset(token)
