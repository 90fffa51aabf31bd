"""Reports takeovers: which orders this run resumed, from which step, and why.

The reports go to the log and to an artifact of this run. The run that held the orders before gets a link to
this run, and each order's page once this run has finished with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from prefect.artifacts import acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from flows.order_picture import show_order
from flows.order_saga import ORDER_SAGA
from saga.log_context import about_instance
from shop.orders.order import OrderInstance

_SHOWN = 20
"""Limits how many orders are reported one by one."""
_POLL_SECONDS = 0.2
_LIMIT_SECONDS = 300
"""Limits the wait for the orders whose pages are shown, in seconds."""
_reporting: set[asyncio.Task[None]] = set()


def report_takeovers(orders: Sequence[OrderInstance]) -> None:
    """Logs each order that another worker had begun, and the number of the rest; a background task creates
    the artifacts."""
    resumed = [order for order in orders if order.fence > 1]
    if not resumed:
        return
    log = get_run_logger()
    shown = resumed[:_SHOWN]
    for order in shown:
        with about_instance(order.id):
            log.info("recovering order %s (%s): %s; %s", order.id, _why(order), _how_far(order), _then(order))
    if len(resumed) > len(shown):
        log.info("recovering %d more orders", len(resumed) - len(shown))
    reporting = asyncio.create_task(_create_artifacts(resumed))
    _reporting.add(reporting)
    reporting.add_done_callback(_reporting.discard)


async def wait_for_artifacts() -> None:
    """Waits up to 5 s for the artifacts, before a run ends."""
    if _reporting:
        await asyncio.wait(_reporting, timeout=5)


async def _create_artifacts(orders: Sequence[OrderInstance]) -> None:
    try:
        rows = [f"| {_safe(o.id)} | {_left_by(o)} | {_why(o)} | {_how_far(o)} | {_then(o)} |" for o in orders[:_SHOWN]]
        more = [f"\n... and {len(orders) - len(rows)} more"] if len(orders) > len(rows) else []
        table = ["| order | begun by | why | so far | now |", "| --- | --- | --- | --- | --- |", *rows, *more]
        await acreate_markdown_artifact("\n".join(table), key="recovered-orders", description="Orders that this run took over")
        lost = [order for order in orders if order.lease_expired and order.left_by not in {None, str(flow_run.id)}]
        async with get_client() as client:
            for run in sorted({str(order.left_by) for order in lost})[:_SHOWN]:
                theirs = [_safe(order.id) for order in lost if order.left_by == run]
                link = f"{link_to_run(flow_run.id, _safe(flow_run.name or 'this run'))} recovered {', '.join(theirs[:_SHOWN])}"
                await client.create_artifact(
                    ArtifactCreate(
                        key="recovered-by",
                        type="markdown",
                        data=link,
                        description="The run that continued these orders",
                        flow_run_id=UUID(run),
                    )
                )
        await _create_pages(lost[:_SHOWN])
    except Exception as error:  # noqa: BLE001  (artifacts are optional: orders have priority)
        get_run_logger().warning("the takeover is not shown as an artifact: %s", type(error).__name__)


async def _create_pages(orders: Sequence[OrderInstance]) -> None:
    """Shows the orders' pages at the runs that held them before, once this run has finished with them."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LIMIT_SECONDS):
            for order in orders:
                while not order.lost:  # noqa: ASYNC110  (it is set in many places, and no one waits for this task)
                    await asyncio.sleep(_POLL_SECONDS)
                await show_order(order.id, of_run=UUID(order.left_by))


def link_to_run(run_id: object, name: str) -> str:
    """Returns a Markdown link to a run, for an artifact. It is relative, so that it works in the old and the
    new UI, wherever they are served."""
    return f"[{name}](../../runs/flow-run/{run_id})"


def _left_by(order: OrderInstance) -> str:
    if order.left_by is None or order.left_by == str(flow_run.id):
        return ""
    return link_to_run(order.left_by, "the run before")


def _why(order: OrderInstance) -> str:
    if order.cancel_reason is not None and order.failure is None:
        return "it has a cancel request"
    return "its worker's lease expired" if order.lease_expired else "its worker released it"


def _how_far(order: OrderInstance) -> str:
    done = [step.name for step in ORDER_SAGA if order.done(step.name)]
    return f"done so far: {', '.join(done)}" if done else "no step done yet"


def _then(order: OrderInstance) -> str:
    return "its compensation continues" if order.failure else "it continues"


def _safe(order_id: str) -> str:
    """Returns the id with only characters that are safe in a table's cell: an id may contain anything."""
    return "".join(c if c.isalnum() or c in "-_.:#~" else "?" for c in order_id)[:100]
