"""Saying that orders are taken over from a worker that let go of them: which, from which step on, why.

In the log, as an artifact of this run, and at the run that had them before: a link, and each order's page once this run is done with it.
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
from flows.saga import ORDER_SAGA
from shop.monitoring.log_context import about_one
from shop.under_way import OrderUnderWay

_TOLD_ONE_BY_ONE = 20
_LOOK_SECONDS = 0.2
_PATIENCE_SECONDS = 300
_telling: set[asyncio.Task[None]] = set()


def tell_of_takeovers(orders: Sequence[OrderUnderWay]) -> None:
    """Logs each order that somebody had begun before, a crowd of them in one line; artifacts follow when there is time."""
    resumed = [order for order in orders if order.fence > 1]
    if not resumed:
        return
    log = get_run_logger()
    shown = resumed[:_TOLD_ONE_BY_ONE]
    for order in shown:
        with about_one(order.id):
            log.info("recovering order %s (%s): %s; %s", order.id, _why(order), _how_far(order), _then(order))
    if len(resumed) > len(shown):
        log.info("recovering %d more orders", len(resumed) - len(shown))
    telling = asyncio.create_task(_leave_artifacts(resumed))
    _telling.add(telling)
    telling.add_done_callback(_telling.discard)


async def all_told() -> None:
    """Waits a little for the artifacts. For the end of a run."""
    if _telling:
        await asyncio.wait(_telling, timeout=5)


async def _leave_artifacts(orders: Sequence[OrderUnderWay]) -> None:
    try:
        rows = [f"| {_safe(o.id)} | {_left_by(o)} | {_why(o)} | {_how_far(o)} | {_then(o)} |" for o in orders[:_TOLD_ONE_BY_ONE]]
        more = [f"\n... and {len(orders) - len(rows)} more"] if len(orders) > len(rows) else []
        table = ["| order | begun by | why | so far | now |", "| --- | --- | --- | --- | --- |", *rows, *more]
        await acreate_markdown_artifact("\n".join(table), key="recovered-orders", description="Orders that this run took over")
        lost = [order for order in orders if order.left_behind and order.left_by not in {None, str(flow_run.id)}]
        async with get_client() as client:
            for run in sorted({str(order.left_by) for order in lost})[:_TOLD_ONE_BY_ONE]:
                theirs = [_safe(order.id) for order in lost if order.left_by == run]
                link = f"{link_to_run(flow_run.id, _safe(flow_run.name or 'this run'))} recovered {', '.join(theirs[:_TOLD_ONE_BY_ONE])}"
                await client.create_artifact(
                    ArtifactCreate(key="recovered-by", type="markdown", data=link, description="Who went on", flow_run_id=UUID(run))
                )
        await _leave_pages(lost[:_TOLD_ONE_BY_ONE])
    except Exception as error:  # noqa: BLE001  (pictures are nice to have; orders go first)
        get_run_logger().warning("the takeover could not be shown as an artifact: %s", type(error).__name__)


async def _leave_pages(orders: Sequence[OrderUnderWay]) -> None:
    """At the runs that had them before: how the orders went on, once this run is done with them."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_SECONDS):
            for order in orders:
                while not order.lost:  # noqa: ASYNC110  (it is set in many places, and nobody waits for this)
                    await asyncio.sleep(_LOOK_SECONDS)
                await show_order(order.id, of_run=UUID(order.left_by))


def link_to_run(run_id: object, name: str) -> str:
    """A link in an artifact, to a run. Relative, so that it stays in the UI that is looked at, old or new, and wherever that is served."""
    return f"[{name}](../../runs/flow-run/{run_id})"


def _left_by(order: OrderUnderWay) -> str:
    if order.left_by is None or order.left_by == str(flow_run.id):
        return ""
    return link_to_run(order.left_by, "the run before")


def _why(order: OrderUnderWay) -> str:
    if order.cancel_reason is not None and order.failure is None:
        return "it is to be cancelled"
    return "its worker's lease ran out" if order.left_behind else "its worker handed it back"


def _how_far(order: OrderUnderWay) -> str:
    done = [step.name for step in ORDER_SAGA if order.done(step.name)]
    return f"done so far: {', '.join(done)}" if done else "nothing done yet"


def _then(order: OrderUnderWay) -> str:
    return "it goes on being undone" if order.failure else "it goes on"


def _safe(order_id: str) -> str:
    """For a cell of a table: an id may be anything."""
    return "".join(c if c.isalnum() or c in "-_.:#~" else "?" for c in order_id)[:100]
