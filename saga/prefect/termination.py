"""Handles SIGTERM in a flow run that uses background tasks."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from prefect.exceptions import TerminationSignal
from prefect.utilities import engine


@asynccontextmanager
async def cancelled_by_sigterm() -> AsyncIterator[None]:
    """Cancels the body on SIGTERM, and raises `TerminationSignal` once the body has cleaned up.

    Prefect's own handler raises `TerminationSignal` in whichever asyncio task runs at that moment. In a
    background task it is lost: the run continues without that task. This one takes its place, also in
    Prefect's own eyes: it accepts the request to cancel a run only while its handler is installed. Does
    nothing outside of the main thread, which is the only one that gets signals.
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
        before = _install(handle, handle)
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
        _install(*before)
    if terminated:
        raise TerminationSignal(signal.SIGTERM)


def _install(handler: Any, prefects: Any) -> tuple[Any, Any]:
    """Installs the handler for SIGTERM, and what Prefect takes for its own. Returns those of before. Raises
    ValueError outside of the main thread."""
    with engine._prefect_sigterm_bridge_lock:
        before = signal.signal(signal.SIGTERM, handler), engine._prefect_sigterm_handler
        engine._prefect_sigterm_handler = prefects
    return before
