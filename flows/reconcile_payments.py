"""Do our books, the gateway's and the shelf say the same? Nightly, and by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterState, FlowRunFilterStateName
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed
from pydantic import Field

from saga.clock import database_time
from shop.reconciliation.discrepancy import Discrepancy
from shop.reconciliation.report import Report
from shop.text.sanitize import one_line
from shop.values.money import show
from tasks.compare_books import compare_books

ARTIFACT = "reconciliation"
EVENT = "order.reconciliation.discrepancy"
MORE_EVENT = "order.reconciliation.more"
MOST_EVENTS = 300
_HOURS, _FIRST_DAYS = 48, 30
_LOOK_BACK = 200
"""Runs."""
_OVERLAP = timedelta(hours=1)
_ENDS = ["Balanced", "Repaired", "Discrepancies"]
SinceHours = Annotated[
    float | None,
    Field(
        gt=0,
        le=24 * 3660,
        description="How far to look back: what moved, and orders that ended, since then. Empty: 48 hours, and at least to the last run",
    ),
]
Fix = Annotated[bool, Field(description="Mend what can be mended without guessing; otherwise only tell")]


def _run_name() -> str:
    return f"reconciliation of {datetime.now(UTC):%Y-%m-%d %H:%M}"


@flow(name="reconcile-payments", flow_run_name=_run_name, persist_result=False)
async def reconcile_payments(since_hours: SinceHours = None, fix: Fix = True) -> State[str]:
    """Compares the gateway's list of payments and refunds with our orders, both ways, and the stock with reservations and shipments.
    Without `since_hours` no time is left out, however long no run has ended. What is open from before is looked at again, until the books
    agree or a person accepts it (`accept-discrepancies`).

    Ends as `Balanced`, as `Repaired` when all that was wrong could be mended, or as failed, `Discrepancies`, when a person has to look.
    The artifact `reconciliation` has the table; each discrepancy is an event.
    """
    report = Report()
    since = await database_time() - timedelta(hours=since_hours) if since_hours else await _since()
    await compare_books(report, since, fix)
    summary = report.summary()
    get_run_logger().info("%s", summary)
    await acreate_table_artifact(key=ARTIFACT, table=list(_rows(report)), description=f"Since {since:%Y-%m-%d %H:%M} UTC: {summary}")
    _tell(report)
    if report.open:
        return Failed(name="Discrepancies", message=summary, data=summary)
    return Completed(name="Repaired" if report.repaired else "Balanced", message=summary, data=summary)


async def _since() -> datetime:
    """48 hours ago, or a little before the last run began that came to an end and was one like this: nothing left out, and mended what it
    could. Without one it looks back a month."""
    now = await database_time()
    async with get_client() as client:
        ended = await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["reconcile-payments"])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=_ENDS))),
            sort=FlowRunSort.START_TIME_DESC,
            limit=_LOOK_BACK,
        )
    whole = (run.start_time for run in ended if not run.parameters.get("since_hours") and run.parameters.get("fix", True))
    last = next((start for start in whole if start is not None), now - timedelta(days=_FIRST_DAYS) + _OVERLAP)
    return min(now - timedelta(hours=_HOURS), last - _OVERLAP)


def _rows(report: Report) -> Iterator[dict[str, str]]:
    for discrepancy in report.shown:
        yield {
            "what": discrepancy.kind.value.replace("_", " "),
            "order or product": _subject(discrepancy),
            "we say": discrepancy.ours,
            "they say": discrepancy.theirs,
            "amount": _amount(discrepancy),
            "payments": ", ".join(discrepancy.payment_ids),
            "since": f"{discrepancy.since:%Y-%m-%d %H:%M} UTC" if discrepancy.since else "",
            "now": _now(discrepancy),
        }
    if left := report.total - len(report.shown):
        yield {"what": f"and {left} more"}
    if not report.total:
        yield {"what": "no discrepancy"}


def _now(discrepancy: Discrepancy) -> str:
    if discrepancy.repaired:
        return "mended"
    if discrepancy.remark:
        return f"could not be mended: {one_line(discrepancy.remark)}"
    return "can be mended: run again with fix" if discrepancy.repairable else "for a person"


def _tell(report: Report) -> None:
    tell_of(report.shown[:MOST_EVENTS])
    if (left := report.total - MOST_EVENTS) > 0:
        emit_event(MORE_EVENT, resource={"prefect.resource.id": "shop.reconciliation"}, payload={"more": left, "summary": report.summary()})


def tell_of(discrepancies: Sequence[Discrepancy]) -> None:
    """An event for each."""
    for discrepancy in discrepancies:
        what = f"shop.product.{discrepancy.product_id}" if discrepancy.product_id else f"shop.order.{_subject(discrepancy)}"
        emit_event(EVENT, resource={"prefect.resource.id": what}, payload=_payload(discrepancy))


def _payload(discrepancy: Discrepancy) -> dict[str, Any]:
    return {
        "kind": discrepancy.kind.value,
        "order_id": discrepancy.order_id,
        "product_id": discrepancy.product_id,
        "ours": discrepancy.ours,
        "theirs": discrepancy.theirs,
        "amount": str(discrepancy.amount) if discrepancy.amount is not None else None,
        "currency": discrepancy.currency,
        "payment_ids": list(discrepancy.payment_ids),
        "mended": discrepancy.repaired,
        "remark": discrepancy.remark,
    }


def _subject(discrepancy: Discrepancy) -> str:
    """Anybody may have typed it, and the gateway's need not even be one of ours."""
    return one_line(discrepancy.product_id or discrepancy.order_id)


def _amount(discrepancy: Discrepancy) -> str:
    return show(discrepancy.amount, discrepancy.currency) if discrepancy.amount is not None and discrepancy.currency else ""
