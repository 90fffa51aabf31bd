"""Comparing the gateway's list with our orders, and the stock with what moved it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from shop.database import is_database_trouble
from shop.errors import OrderError
from shop.payments.gateways import gateway
from shop.reconciliation.reconcile import reconcile
from shop.reconciliation.report import Report
from tasks.limits import PAYMENT_GATEWAY, slots


async def _worth_retrying(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    error: object = await state.aresult(raise_on_failure=False)
    if isinstance(error, OrderError):
        return error.retryable and error.retry_after is None
    return isinstance(error, BaseException) and is_database_trouble(error)


@task(
    name="compare_books",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=3,
    retry_delay_seconds=[5, 20, 60],
    retry_condition_fn=_worth_retrying,
)
async def compare_books(report: Report, since: datetime, fix: bool) -> dict[str, int]:
    """Fills the report, and with `fix` mends what can be mended. Any attempt begins at the beginning: what is mended is found no more."""
    report.begin_again()
    async with slots(PAYMENT_GATEWAY):
        async for discrepancy in reconcile(gateway(), since, fix=fix):
            report.add(discrepancy)
    return {"mended": report.mended.total(), "open": report.open.total()}
