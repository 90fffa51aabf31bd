"""Deletes expired data, daily."""

from __future__ import annotations

from prefect import flow
from prefect.logging import get_run_logger

from flows.run_names import timed
from shop.settings import settings
from tasks.purge import delete_runs_of_erased_orders, delete_traces, erase_old_customers


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
