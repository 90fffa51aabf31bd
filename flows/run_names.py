"""Names of runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.logging import get_logger

from shop.runtime.times import local

_LIMIT_SECONDS = 5
"""Limits the request that names a run, in seconds."""


def timed(what: str) -> Callable[[], str]:
    """Returns a `flow_run_name` for runs not about one order, such as `recovery at 09:30:00` (in the shop's
    time zone)."""

    def name() -> str:
        return f"{what} at {local(datetime.now(UTC)):%H:%M:%S}"

    return name


@asynccontextmanager
async def named(name: str) -> AsyncIterator[None]:
    """Gives this flow run a name while its body runs.

    A `flow_run_name` costs more than that: before the run begins, Prefect builds a second HTTP client for it,
    with a TLS context, reads a setting from its server, and waits for the new name.
    """
    naming = asyncio.create_task(_set_name(name), name="name-run")
    try:
        yield
    finally:
        await naming  # has ended long before, if the server answers


async def _set_name(name: str) -> None:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    context.flow_run.name = name  # in the lines that the run logs from now on
    try:
        async with asyncio.timeout(_LIMIT_SECONDS), get_client() as client:
            await client.set_flow_run_name(context.flow_run.id, name)
    except Exception as error:  # noqa: BLE001  (a name does not affect the order)
        get_logger("orders").warning("naming the run failed (%s)", type(error).__name__)
