"""Deletes data whose retention period is over, daily."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
)
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.logging import get_run_logger

from flows.runs import timed
from saga.clock import database_time
from shop.retention.customers import erase_customers, which_are_erased
from shop.retention.traces import purge_traces
from shop.settings import settings

_RUNS_OF_ONE_ORDER = [
    "process-order",
    "cancel-order",
    "retry-order",
    "resolve-order",
    "accept-discrepancies",
]
"""Flows whose parameters contain an order, or what people wrote about one."""
_MOST_UNREADABLE = 50
"""Limits the skipped runs, which the Prefect server cannot show."""
_PAGE = 200
"""How many runs are read at once."""


@flow(name="purge", flow_run_name=timed("purge"), persist_result=False)
async def purge() -> dict[str, int]:
    """Deletes traces after `event_monitoring.trace_retention_hours`; and, if `CUSTOMER_DATA_DAYS` is set, the
    customer data of orders that ended before that. If it is interrupted, the next run continues. Keeps the
    records of money."""
    deleted = await delete_traces()
    erased = runs = 0
    if (days := settings().retention.customer_data_days) is not None:
        erased = await erase_old_customers(days)
        runs = await delete_runs_of_erased_orders(days)
    get_run_logger().info(
        "%d traces deleted, the customers of %d orders erased, %d runs deleted",
        sum(deleted.values()),
        erased,
        runs,
    )
    return {**deleted, "erased": erased, "runs": runs}


@task(name="purge_traces", cache_policy=NO_CACHE, persist_result=False, retries=2, retry_delay_seconds=10)
async def delete_traces() -> dict[str, int]:
    """Deletes samples, handled events, and alerts that are over. Returns how many of each."""
    return await asyncio.to_thread(purge_traces)


@task(name="erase_customers", cache_policy=NO_CACHE, persist_result=False, retries=2, retry_delay_seconds=10)
async def erase_old_customers(days: float) -> int:
    """Erases the customers' data of old orders in our database and in `VAR_DIR`. Returns how many orders."""
    return await asyncio.to_thread(erase_customers, days)


@task(
    name="delete_runs_of_erased_orders",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=2,
    retry_delay_seconds=3,
)
async def delete_runs_of_erased_orders(days: float) -> int:
    """Deletes runs that were due at least this many days ago and whose order is erased: the Prefect server
    keeps a run's parameters, which contain the order, or why it was cancelled. Returns how many."""
    before = await database_time() - timedelta(days=days)
    # Not by the end: a run whose worker died before it began has none.
    old = FlowRunFilter(expected_start_time=FlowRunFilterExpectedStartTime(before_=before))
    flows, deleted, kept = FlowFilter(name=FlowFilterName(any_=_RUNS_OF_ONE_ORDER)), 0, 0
    async with get_client() as client:
        page, unreadable = _PAGE, 0
        while True:
            try:
                runs = await client.read_flow_runs(
                    flow_filter=flows, flow_run_filter=old, limit=page, offset=kept
                )
            except PrefectHTTPStatusError as error:
                if (
                    error.response.status_code != HTTPStatus.INTERNAL_SERVER_ERROR
                    or unreadable == _MOST_UNREADABLE
                ):
                    raise
                if page == 1:  # the server cannot show this run: its parameters may not be valid text
                    get_run_logger().warning("skipping a run that the Prefect server cannot show")
                    page, unreadable, kept = _PAGE, unreadable + 1, kept + 1
                else:
                    page = 1
                continue
            if not runs:
                break
            orders = {run.id: _order_of(run.parameters) for run in runs}
            erased = await asyncio.to_thread(
                which_are_erased, [order for order in orders.values() if order is not None]
            )
            for run_id, order in orders.items():
                if order not in erased:
                    kept += 1
                    continue
                try:
                    await client.delete_flow_run(run_id)
                except ObjectNotFound:
                    continue
                deleted += 1
    return deleted


def _order_of(parameters: dict[str, Any]) -> str | None:
    order = parameters.get("order")
    given = order.get("id") if isinstance(order, dict) else parameters.get("order_id")
    return str(given).strip() if isinstance(given, str | int) else None
