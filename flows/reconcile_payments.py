"""Reconciles our records, the gateway's and the stock. Nightly, and on request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from prefect import flow, task
from prefect.artifacts import acreate_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.client.schemas.objects import State
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed
from pydantic import Field

from saga.clock import database_time
from saga.prefect import worth_retrying
from saga.shares import share
from shop.orders.store import ORDERS
from shop.payments.gateways import PAYMENT_GATEWAY, gateway
from shop.reconciliation.discrepancy import Discrepancy, Report
from shop.reconciliation.reconcile import reconcile
from shop.runtime.times import shown_minute
from shop.text.sanitize import one_line
from shop.values.money import show

ARTIFACT = "reconciliation"
EVENT = "order.reconciliation.discrepancy"
MORE_EVENT = "order.reconciliation.more"
MOST_EVENTS = 300
_HOURS, _FIRST_DAYS = 48, 30
_MOST_RUNS = 200
"""Limits how many previous runs are examined."""
_OVERLAP = timedelta(hours=1)
_STATE_NAMES = ["Balanced", "Repaired", "Discrepancies"]
SinceHours = Annotated[
    float | None,
    Field(
        gt=0,
        le=24 * 3660,
        description=(
            "Hours to look back, for payments that moved and orders that ended. "
            "Empty: 48 hours, and at least to the last run"
        ),
    ),
]
Fix = Annotated[bool, Field(description="Repair what needs no decision; otherwise only report")]


def _run_name() -> str:
    return f"reconciliation of {datetime.now(UTC):%Y-%m-%d %H:%M}"


@flow(name="reconcile-payments", flow_run_name=_run_name, persist_result=False)
async def reconcile_payments(since_hours: SinceHours = None, fix: Fix = True) -> State[str]:
    """Compares the gateway's payments and refunds with our orders, in both directions, and the stock with
    reservations and shipments. Without `since_hours` no period is skipped, however long no run has ended.
    Open discrepancies are checked again until both sides agree or a person accepts them
    (`accept-discrepancies`).

    Ends as `Balanced`, as `Repaired` if everything wrong could be repaired, or as failed, `Discrepancies`, if
    a person is needed. The artifact `reconciliation` has the table; each discrepancy is an event.
    """
    report = Report()
    since = await database_time() - timedelta(hours=since_hours) if since_hours else await _since()
    await compare_books(report, since, fix)
    summary = report.summary()
    get_run_logger().info("%s", summary)
    await acreate_table_artifact(
        key=ARTIFACT, table=list(_rows(report)), description=f"Since {shown_minute(since)}: {summary}"
    )
    _emit_shown(report)
    if report.open:
        return Failed(name="Discrepancies", message=summary, data=summary)
    return Completed(name="Repaired" if report.repaired else "Balanced", message=summary, data=summary)


@task(
    name="compare_books",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=3,
    retry_delay_seconds=[5, 20, 60],
    retry_condition_fn=worth_retrying,
)
async def compare_books(report: Report, since: datetime, fix: bool) -> dict[str, int]:
    """Fills the report and, with `fix`, repairs what can be repaired. Each attempt starts over; repaired
    discrepancies no longer appear."""
    report.begin_again()
    async with share(PAYMENT_GATEWAY, ORDERS):
        async for discrepancy in reconcile(gateway(), since, fix=fix):
            report.add(discrepancy)
    return {"repaired": report.repaired.total(), "open": report.open.total()}


async def _since() -> datetime:
    """Returns 48 hours ago, or a little before the start of the last completed run like this one: without
    a gap, and with repairs. Without such a run, a month ago."""
    now = await database_time()
    async with get_client() as client:
        ended = await client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["reconcile-payments"])),
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(name=FlowRunFilterStateName(any_=_STATE_NAMES))
            ),
            sort=FlowRunSort.START_TIME_DESC,
            limit=_MOST_RUNS,
        )
    whole = (
        run.start_time
        for run in ended
        if not run.parameters.get("since_hours") and run.parameters.get("fix", True)
    )
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
            "since": shown_minute(discrepancy.since) if discrepancy.since else "",
            "now": _now(discrepancy),
        }
    if left := report.total - len(report.shown):
        yield {"what": f"and {left} more"}
    if not report.total:
        yield {"what": "no discrepancy"}


def _now(discrepancy: Discrepancy) -> str:
    if discrepancy.repaired:
        return "repaired"
    if discrepancy.remark:
        return f"could not be repaired: {one_line(discrepancy.remark)}"
    return "can be repaired: run again with fix" if discrepancy.repairable else "needs a person"


def _emit_shown(report: Report) -> None:
    emit_events(report.shown[:MOST_EVENTS])
    if (left := report.total - MOST_EVENTS) > 0:
        emit_event(
            MORE_EVENT,
            resource={"prefect.resource.id": "shop.reconciliation"},
            payload={"more": left, "summary": report.summary()},
        )


def emit_events(discrepancies: Sequence[Discrepancy]) -> None:
    """Emits an event for each discrepancy."""
    for discrepancy in discrepancies:
        what = (
            f"shop.product.{discrepancy.product_id}"
            if discrepancy.product_id
            else f"shop.order.{_subject(discrepancy)}"
        )
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
    """Returns a displayable id: an order id is untrusted input, and the gateway's may not be one of ours."""
    return one_line(discrepancy.product_id or discrepancy.order_id)


def _amount(discrepancy: Discrepancy) -> str:
    return (
        show(discrepancy.amount, discrepancy.currency)
        if discrepancy.amount is not None and discrepancy.currency
        else ""
    )
