"""Prefect's global concurrency limits: how many calls all workers together make to an external system at
once.

Taking a slot costs tens of milliseconds, so a consumer takes its share once, and its batches work within it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar

from prefect.client.orchestration import get_client
from prefect.concurrency.asyncio import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger

from saga.limit import Limit

log = get_logger("orders")
_WAIT_SECONDS = 3
"""Limits the wait for free slots."""
_SERVER_SECONDS = 5
"""Timeout for acquiring and for releasing slots when the Prefect server does not respond."""
_LEASE_SECONDS = 60
"""Seconds after which the slots of a killed process become free; Prefect's minimum."""
_held: ContextVar[frozenset[str]] = ContextVar("held_limits", default=frozenset())


@asynccontextmanager
async def slots(limit: Limit | None, occupy: int = 1) -> AsyncIterator[bool]:
    """Holds slots of the limit, unless the caller holds some already. Yields whether it acquired them.

    `occupy`: how many the work can use, of which at most `Limit.most`, and at most the whole limit, are
    requested. The work makes no more calls at once than it requested slots.

    The limit protects the external system from overload. A Prefect server that does not respond, or slots
    that do not come free, are no reason to leave an instance half done: the work continues with as many calls
    at once as it requested slots.
    """
    if limit is None or limit.name in _held.get():
        yield True
        return
    stack, got, asked = AsyncExitStack(), False, max(1, min(occupy, limit.most()))
    try:
        async with asyncio.timeout(_SERVER_SECONDS):
            asked = max(1, min(asked, await _total_slots(limit.name))) if asked > 1 else asked
            held = concurrency(
                limit.name,
                occupy=asked,
                timeout_seconds=_WAIT_SECONDS,
                lease_duration=_LEASE_SECONDS,
                strict=False,
            )
            await stack.enter_async_context(held)
        got = True
    except Exception as error:  # noqa: BLE001  (whatever it was: instances have priority)
        log.warning(
            "no slots of the limit %s (%s); continuing with %d calls at once",
            limit.name,
            type(error).__name__,
            asked,
        )
    token = _held.set(_held.get() | {limit.name})
    try:
        with limit.at_most(asked):
            yield got
    finally:
        _held.reset(token)
        await _release(stack, limit.name)


async def _total_slots(limit: str) -> int:
    """Returns how many slots the limit has; `sys.maxsize` if the limit does not exist or is inactive."""
    async with get_client() as client:
        try:
            known = await client.read_global_concurrency_limit_by_name(limit)
        except ObjectNotFound:
            return sys.maxsize
    return known.limit if known.active else sys.maxsize


async def _release(stack: AsyncExitStack, limit: str) -> None:
    """Releases the slots. If the server does not respond, they become free when their lease expires."""
    try:
        async with asyncio.timeout(_SERVER_SECONDS):
            await stack.aclose()
    except Exception as error:  # noqa: BLE001
        log.warning(
            "the slots of the limit %s are free again in %d s (%s)",
            limit,
            _LEASE_SECONDS,
            type(error).__name__,
        )
