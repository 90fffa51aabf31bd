"""Cleans up what an earlier stop left on our own Prefect server, before the worker starts.

Nothing can be running then, because the worker and its processes were stopped with the server. So runs that
the server has as running are not, held slots are free, and scheduled runs whose time has passed are useless.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shop.settings import settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, StateType

_PAGE = 200


def tidy_up() -> None:
    """Deletes runs that were scheduled for the downtime, reschedules runs that people started, marks the
    others as crashed, and frees all slots. Run it only while no worker runs."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.states import AwaitingRetry, Cancelled, Crashed

    with get_client(sync_client=True) as client:
        for run in list(_runs(client, StateType.SCHEDULED)):
            if (
                run.auto_scheduled
                and run.expected_start_time is not None
                and run.expected_start_time < datetime.now(UTC)
            ):
                client.delete_flow_run(run.id)
        for run in list(_runs(client, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)):
            if run.state_type == StateType.CANCELLING:
                client.set_flow_run_state(run.id, Cancelled(message="Its worker was stopped."), force=True)
            elif run.auto_scheduled:
                client.set_flow_run_state(
                    run.id,
                    Crashed(message="Its worker was stopped. The next scheduled run continues."),
                    force=True,
                )
            else:  # a person started it: the retry continues from the journal
                client.set_flow_run_state(
                    run.id, AwaitingRetry(message="Its worker was stopped: it continues now."), force=True
                )
        _free_slots(client)


def _runs(client: SyncPrefectClient, *types: StateType) -> Iterator[FlowRun]:
    """Yields the worker's runs in these states."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )

    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))))
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[settings().workers.pool]))
    offset = 0
    while page := client.read_flow_runs(
        flow_run_filter=wanted, work_pool_filter=pool, limit=_PAGE, offset=offset
    ):
        yield from page
        offset += len(page)
        if len(page) < _PAGE:
            return


def _free_slots(client: SyncPrefectClient) -> None:
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate

    offset = 0
    while page := client.read_global_concurrency_limits(limit=_PAGE, offset=offset):
        for limit in page:
            if limit.active_slots:
                client.update_global_concurrency_limit(
                    limit.name, GlobalConcurrencyLimitUpdate(active_slots=0)
                )
        offset += len(page)
        if len(page) < _PAGE:
            return
