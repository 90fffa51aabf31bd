"""Handles SIGTERM in a flow run that uses background tasks."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from prefect.exceptions import TerminationSignal


@asynccontextmanager
async def cancelled_by_sigterm() -> AsyncIterator[None]:
    """Cancels the body on SIGTERM, and raises `TerminationSignal` once the body has cleaned up.

    Prefect's own handler raises `TerminationSignal` in whichever asyncio task runs at that moment. In a
    background task it is lost: the run continues without that task. Does nothing outside of the main thread,
    which is the only one that gets signals.
    """
    loop, body = asyncio.get_running_loop(), asyncio.current_task()
    terminated = False

    def terminate() -> None:
        nonlocal terminated
        if body is not None and not terminated:  # once: the body's cleanup may take long
            terminated = body.cancel()

    def handle(*_: Any) -> None:
        loop.call_soon_threadsafe(terminate)

    try:
        before = signal.signal(signal.SIGTERM, handle)
    except ValueError:
        yield
        return
    try:
        yield
    except asyncio.CancelledError:
        if not terminated or body is None:
            raise
        body.uncancel()
    finally:
        signal.signal(signal.SIGTERM, before)
    if terminated:
        raise TerminationSignal(signal.SIGTERM)
