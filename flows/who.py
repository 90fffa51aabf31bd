"""The user who started a run, as far as Prefect knows."""

from __future__ import annotations

import asyncio
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

_SECONDS = 5.0
"""Timeout for reading the run's creator from the Prefect server."""


async def started_by() -> str:
    """Returns the run and its creator according to Prefect. A self-hosted server distinguishes automations
    but not people, who share one password."""
    run = f"Prefect run {flow_run.id}"
    try:
        async with asyncio.timeout(_SECONDS), get_client() as client:
            creator = (await client.read_flow_run(UUID(flow_run.id))).created_by
    except Exception as error:  # noqa: BLE001  (an unavailable Prefect must not lose a decision)
        return f"{run}; reading its creator failed ({type(error).__name__})"
    if creator is None:
        return f"{run}; Prefect has no creator"
    return f"{run}, created by {str(creator.type or 'unknown').lower()} {creator.display_value or creator.id}"
