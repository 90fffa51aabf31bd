"""Prefect's global concurrency limits: how much all workers together may ask of something outside.

Taking a slot costs tens of milliseconds, so a drain takes its share once, and its batches work within it.
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

from shop.payments.share import at_most
from shop.settings import settings

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

    `occupy`: as many as the work can use, of which at most `PAYMENT_CONCURRENCY` and at most the whole limit are asked for. The work
    makes no more calls at once than it asked slots for.

    The limit protects the gateway from too much at once. A Prefect server that is away, or slots that do not come free, are no reason
    to leave an order half done: the work goes on with as many calls at once as it asked slots for.
    """
    if limit is None or limit in _held.get():
        yield True
        return
    stack, got, asked = AsyncExitStack(), False, max(1, min(occupy, settings().payment_concurrency))
    try:
        async with asyncio.timeout(_SERVER_SECONDS):
            asked = max(1, min(asked, await _whole(limit))) if asked > 1 else asked
            held = concurrency(limit, occupy=asked, timeout_seconds=_WAIT_SECONDS, lease_duration=_LEASE_SECONDS, strict=False)
            await stack.enter_async_context(held)
        got = True
    except Exception as error:  # noqa: BLE001  (whatever it was, orders go first)
        log.warning("no slots of the limit %s (%s); going on with %d calls at once", limit, type(error).__name__, asked)
    token = _held.set(_held.get() | {limit})
    try:
        with at_most(asked):
            yield got
    finally:
        _held.reset(token)
        await _give_back(stack, limit)


async def _whole(limit: str) -> int:
    """How many slots the limit has in all; more than anybody asks for, if there is no such limit or it is off."""
    async with get_client() as client:
        try:
            known = await client.read_global_concurrency_limit_by_name(limit)
        except ObjectNotFound:
            return sys.maxsize
    return known.limit if known.active else sys.maxsize


async def _give_back(stack: AsyncExitStack, limit: str) -> None:
    """What was done with the slots stays done, also when the server does not hear that they are free; it finds out by itself."""
    try:
        async with asyncio.timeout(_SERVER_SECONDS):
            await stack.aclose()
    except Exception as error:  # noqa: BLE001
        log.warning("the slots of the limit %s are free again in %d s (%s)", limit, _LEASE_SECONDS, type(error).__name__)
