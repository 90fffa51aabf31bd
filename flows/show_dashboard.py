"""Shows the dashboard of the shop: the artifact `order-dashboard`, refreshed while there are orders."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated

from prefect import flow, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.logging import get_run_logger
from pydantic import Field

from flows.order_saga import ORDER_SAGA
from flows.runs import timed
from saga.clock import database_time
from shop.monitoring.dashboard.dashboard import dashboard_page, headline
from shop.monitoring.dashboard.figures import is_active, read_figures
from shop.monitoring.window import last

KEY = "order-dashboard"
_KEPT = 10
"""Number of dashboards kept on the Prefect server; there are hundreds a day."""
_HOURS = 3
"""Hours that the charts cover, unless a person asks for others."""
_ACTIVE_SECONDS = 300
STEPS = tuple(step.name for step in ORDER_SAGA)

Hours = Annotated[float, Field(gt=0, le=24 * 366, description="Hours that the charts cover")]


@flow(name="show-dashboard", flow_run_name=timed("dashboard"), persist_result=False)
async def show_dashboard(hours: Hours = _HOURS) -> str:
    """Draws throughput and latency over time, outcomes, the error rate of each step and stock that runs low.
    Returns the headline."""
    return await _draw_dashboard(hours)


async def refresh_dashboard() -> dict[str, int]:
    """Draws the dashboard again, unless the last one shows everything: no step has ended for some minutes."""
    if not await is_active(_ACTIVE_SECONDS):
        return {}
    await _draw_dashboard(_HOURS)
    return {"dashboards": 1}


@task(name="draw_dashboard", cache_policy=NO_CACHE, persist_result=False)
async def _draw_dashboard(hours: float) -> str:
    until = await database_time()
    figures = await read_figures(until - timedelta(hours=hours), until)
    page = await asyncio.to_thread(dashboard_page, figures, STEPS, f"Orders of {last(hours=hours).name}")
    line = headline(figures)
    await acreate_markdown_artifact(page, key=KEY, description=line)
    await _delete_old_ones()
    return line


async def _delete_old_ones() -> None:
    """Deletes all but the newest. Only logs errors: the next run retries."""
    mine = ArtifactFilter(key=ArtifactFilterKey(any_=[KEY]))
    try:
        async with get_client() as client:
            for old in await client.read_artifacts(
                artifact_filter=mine, sort=ArtifactSort.CREATED_DESC, offset=_KEPT, limit=100
            ):
                await client.delete_artifact(old.id)
    except Exception as error:  # noqa: BLE001  (the new dashboard is shown)
        get_run_logger().warning("removing old dashboards failed (%s)", type(error).__name__)
