"""The shop at a glance: the artifact `order-dashboard`, made anew by a schedule."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Annotated

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from pydantic import Field

from flows.run_names import timed
from flows.saga import ORDER_SAGA
from shop.pictures.board import board_page, headline
from shop.pictures.figures import read_figures

KEY = "order-dashboard"
STEPS = tuple(step.name for step in ORDER_SAGA)

Hours = Annotated[float, Field(gt=0, le=24 * 366, description="How far back the charts go")]


@flow(name="show-dashboard", flow_run_name=timed("dashboard"), persist_result=False)
async def show_dashboard(hours: Hours = 3) -> str:
    """Draws throughput and latency over time, outcomes, the error rate of each step and stock that runs low. Returns the headline."""
    until = datetime.now(UTC)
    figures = await read_figures(until - timedelta(hours=hours), until)
    page = await asyncio.to_thread(board_page, figures, STEPS, f"Orders of the last {hours:g} hours")
    line = headline(figures)
    await acreate_markdown_artifact(page, key=KEY, description=line)
    return line
