"""Shows one order's page in the Prefect UI: the artifact `saga-...` with its diagram, steps and money; see
`shop.orders.page.page`. That of an order that was taken over is shown in both runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.logging import get_logger

from flows.order_saga import ORDER_SAGA
from saga.prefect import takeover
from shop.orders.order import OrderInstance
from shop.orders.page.page import order_page, page_key, summary
from shop.orders.page.story import read_story
from shop.settings import settings

_LIMIT_SECONDS = 5
"""Limits how long a run waits for the page, in seconds."""
_CANCELLED_SECONDS = 2
"""The limit for a cancelled run, which has little time."""

log = get_logger("orders")


async def show_order(order_id: str, *, leaving: bool = False, of_run: UUID | None = None) -> bool:
    """Creates the order's page, as an artifact of this run or of another one. Returns False if that fails
    or takes too long, or if there is no such order. Raises only a cancellation of this run."""
    try:
        async with asyncio.timeout(_CANCELLED_SECONDS if leaving else _LIMIT_SECONDS):
            if (story := await read_story(order_id)) is None:
                return False
            # reads the disk, which may hang
            page = await asyncio.to_thread(order_page, story, ORDER_SAGA, settings())
            if of_run is None:
                await acreate_markdown_artifact(page, key=page_key(order_id), description=summary(story))
            else:
                await _create_artifact_of(of_run, page_key(order_id), page, summary(story))
    except Exception as error:  # noqa: BLE001  (a missing page does not affect the order)
        log.warning("showing order %s in the UI failed (%s)", order_id, type(error).__name__)
        return False
    return True


async def _create_artifact_of(run: UUID, key: str, page: str, description: str) -> None:
    async with get_client() as client:
        await client.create_artifact(
            ArtifactCreate(key=key, type="markdown", data=page, description=description, flow_run_id=run)
        )


def report_takeovers(orders: Sequence[OrderInstance]) -> None:
    """Reports those of the orders that another worker had begun."""
    takeover.report_takeovers(ORDER_SAGA, orders, finished=_show_in)


async def _show_in(order_id: str, run: UUID) -> None:
    await show_order(order_id, of_run=run)
