"""Recovers orders of `process-order` runs that died before they stored them: stores them from the runs'
parameters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_logger
from prefect.runtime import deployment

from shop.orders.errors import UnusableOrder
from shop.orders.intake import known_ids, submit_one
from shop.orders.intake_content import take_in
from shop.orders.lost_runs import Search, next_search, record_search

log = get_logger("orders")

STUCK_SECONDS = 90
"""Seconds after which a run that is Pending, Running or Paused and has not stored its order counts as
dead. If it is alive, it finds its order stored."""
_ENDED = [StateType.CRASHED, StateType.FAILED, StateType.CANCELLED]
_STUCK = [StateType.PENDING, StateType.RUNNING, StateType.PAUSED]
_CANCELLED_BY_PREFECT = ("Deployment concurrency", "no longer exists, cancelled run")
"""Messages of runs that Prefect cancelled itself. Any other cancelled run was cancelled by a person who
does not want the order."""
_PAGE = 100
_PROCESS_ORDER = "process-order"


async def store_lost_orders() -> dict[str, int]:
    """Stores the orders of all lost runs in this run's work pool, and wakes the consumers; returns the count.

    Checks the runs that ended since the last search, and stuck runs. Does nothing outside a deployment.
    Raises database errors and the Prefect client's errors: then the next search starts where this one did.
    """
    return {"orders_stored": len(await search_lost_runs())}


async def search_lost_runs() -> list[str]:
    """Does what `store_lost_orders` does; returns the orders' ids."""
    if deployment.id is None:
        return []
    search = await next_search()
    stored: list[str] = []
    async with get_client() as client:
        if not (deployments := await _process_order_deployments(client, UUID(str(deployment.id)))):
            return []
        async for page in _ended(client, deployments, search):
            stored += await _store([run for run in page if not _was_cancelled_by_person(run)])
        async for page in _stuck(client, deployments, search):
            stored += await _store(page)
    await record_search(search)
    return stored


async def store_order_of(run_id: UUID) -> list[str]:
    """Stores the order of a run, if the run did not store it itself; returns its id."""
    try:
        async with get_client() as client:
            run = await client.read_flow_run(run_id)
    except ObjectNotFound:
        log.warning("there is no flow run %s", run_id)
        return []
    return await _store([run])


async def _process_order_deployments(client: PrefectClient, mine: UUID) -> list[UUID]:
    """Returns the deployments of `process-order` in the work pool of the deployment `mine`. Another pool
    may have another database."""
    pool = (await client.read_deployment(mine)).work_pool_name
    if pool is None:
        return []
    found = await client.read_deployments(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[_PROCESS_ORDER])),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
    )
    return [each.id for each in found]


def _ended(client: PrefectClient, deployments: list[UUID], search: Search) -> AsyncIterator[list[FlowRun]]:
    return _pages(
        client,
        deployments,
        FlowRunFilter(state=_in(_ENDED), end_time=FlowRunFilterEndTime(after_=search.ended_after)),
        search,
    )


async def _stuck(
    client: PrefectClient, deployments: list[UUID], search: Search
) -> AsyncIterator[list[FlowRun]]:
    before = search.now - timedelta(seconds=STUCK_SECONDS)
    due = FlowRunFilterExpectedStartTime(before_=before)
    async for page in _pages(
        client, deployments, FlowRunFilter(state=_in(_STUCK), expected_start_time=due), search
    ):
        yield [run for run in page if run.state is not None and run.state.timestamp < before]


def _in(types: list[StateType]) -> FlowRunFilterState:
    return FlowRunFilterState(type=FlowRunFilterStateType(any_=types))


async def _pages(
    client: PrefectClient, deployments: list[UUID], which: FlowRunFilter, search: Search
) -> AsyncIterator[list[FlowRun]]:
    """Yields pages of the selected runs that were created after this database."""
    ours, offset = DeploymentFilter(id=DeploymentFilterId(any_=deployments)), 0
    while True:
        # The oldest first, so that a run that is added meanwhile does not move another one to a page that was
        # read.
        page = await client.read_flow_runs(
            flow_run_filter=which,
            deployment_filter=ours,
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=_PAGE,
            offset=offset,
        )
        yield [run for run in page if run.created is not None and run.created >= search.since]
        offset += len(page)
        if len(page) < _PAGE:
            return


def _was_cancelled_by_person(run: FlowRun) -> bool:
    state = run.state
    return (
        state is not None
        and state.is_cancelled()
        and not any(words in (state.message or "") for words in _CANCELLED_BY_PREFECT)
    )


async def _store(runs: list[FlowRun]) -> list[str]:
    """Stores the orders that are not stored yet; returns their ids. Skips orders without a usable id,
    which their runs refused."""
    orders: dict[str, FlowRun] = {}
    for run in runs:
        try:
            orders.setdefault(take_in(run.parameters.get("order")).order_id, run)
        except UnusableOrder:
            continue
    stored = []
    for order_id in orders.keys() - await known_ids(list(orders)):
        run = orders[order_id]
        if (await submit_one(run.parameters["order"])).status == "accepted":
            log.warning(
                "stored order %s from the parameters of run %s, which ended before it could store it",
                order_id,
                run.id,
            )
            stored.append(order_id)
    return stored
