"""Who started a run, as far as Prefect knows."""

from __future__ import annotations

import asyncio
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

_SECONDS = 5.0


async def started_by() -> str:
    """The run, and who created it according to Prefect. A server of one's own knows automations, but no people: all have one password."""
    run = f"Prefect run {flow_run.id}"
    try:
        async with asyncio.timeout(_SECONDS), get_client() as client:
            creator = (await client.read_flow_run(UUID(flow_run.id))).created_by
    except Exception as error:  # noqa: BLE001  (a decision is not lost because Prefect does not answer)
        return f"{run}; Prefect did not say who created it ({type(error).__name__})"
    if creator is None:
        return f"{run}; Prefect knows no creator"
    return f"{run}, created by {str(creator.type or 'unknown').lower()} {creator.display_value or creator.id}"
