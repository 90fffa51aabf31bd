"""The reconciliation's task: compares the gateway's payments with our orders, and the stock with its
movements."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from saga.database import is_database_error
from saga.errors import StepError
from saga.shares import share
from shop.orders.store import ORDERS
from shop.payments.gateways import PAYMENT_GATEWAY, gateway
from shop.reconciliation.discrepancy import Report
from shop.reconciliation.reconcile import reconcile


async def _is_retryable(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    error: object = await state.aresult(raise_on_failure=False)
    if isinstance(error, StepError):
        return error.retryable and error.retry_after is None
    return isinstance(error, BaseException) and is_database_error(error)


@task(
    name="compare_books",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=3,
    retry_delay_seconds=[5, 20, 60],
    retry_condition_fn=_is_retryable,
)
async def compare_books(report: Report, since: datetime, fix: bool) -> dict[str, int]:
    """Fills the report and, with `fix`, repairs what can be repaired. Each attempt starts over; repaired
    discrepancies no longer appear."""
    report.begin_again()
    async with share(PAYMENT_GATEWAY, ORDERS):
        async for discrepancy in reconcile(gateway(), since, fix=fix):
            report.add(discrepancy)
    return {"mended": report.repaired.total(), "open": report.open.total()}
