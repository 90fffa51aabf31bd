"""One order, one flow run: the story of the saga."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from typing import Annotated, Any
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.logging import get_logger, get_run_logger
from prefect.runtime import flow_run
from pydantic import Field

from flows import board
from flows.order_picture import show_order
from flows.saga import ORDER_SAGA
from flows.states import state_of
from flows.takeover import all_told, tell_of_takeovers
from flows.termination import cancelled_by_sigterm
from flows.undo import compensate
from flows.waiting import has_to_wait, let_wait
from shop import journal, signals
from shop.database import Tx, is_database_trouble, patiently, transaction
from shop.desk.cancel import withdraw
from shop.ending import finish, put_off, wait_if_it_dies
from shop.errors import (
    GivenUp,
    InfrastructureTrouble,
    LeaseLost,
    OrderCancelled,
    OrderConflict,
    OrderError,
    OrderReturned,
    UnusableOrder,
)
from shop.intake import STORING, read, store_one, submit_one
from shop.intake_content import take_in
from shop.lease import hand_back_all, lease
from shop.monitoring.log_context import about_one
from shop.names import run_name
from shop.notifications import outbox
from shop.notifications.kinds import ALL_OF_AN_ORDER
from shop.order import EXAMPLE, Order
from shop.outcomes import OrderOutcome
from shop.report import read_one
from shop.settings import settings
from shop.under_way import OrderUnderWay
from shop.work import Work
from tasks.deliver_outbox import deliver_outbox
from tasks.step import run

_ASK_SECONDS = 5
_LONGEST_REST_SECONDS = 6 * 3600
"""Limits the pause of a shipped order that stops its workers."""
_REASON, _SOMEBODY = "its run was cancelled", "whoever cancelled the run"
_STARTED_BY_WORKER = "PREFECT__FLOW_RUN_ID"
"""Where workers and `serve` tell a process which run it is for."""
_FORM = {**EXAMPLE, "id": "ORDER-1002"}  # the samples have the first
FilledIn = Field(json_schema_extra={"default": _FORM, "examples": [_FORM]})
"""The run's form in the UI opens with an example filled in. For the form only: a run without an order is refused."""


CANCELLING = "cancel_order"
"""Where an order failed that somebody cancelled before a worker took it up: at no step."""


def _flow_run_name() -> str:
    return run_name("order", flow_run.parameters.get("order"))


# Parameters are not validated here, so that a bad order becomes a rejected one with its reasons, and not a crashed run.
@flow(name="process-order", flow_run_name=_flow_run_name, validate_parameters=False, persist_result=False)
async def process_order(order: Annotated[Order, FilledIn]) -> State[OrderOutcome]:
    """Takes one order to its outcome: validated, reserved, charged, confirmed, shipped, notified; or undone.

    The same order again returns the first one's outcome and does nothing. Raises `UnusableOrder` if the order has no usable id, and
    `OrderConflict` if another order is known under its id.
    """
    async with cancelled_by_sigterm():
        order_id = ""
        context = ExitStack()
        try:
            async with lease() as mine, signals.listening(signals.FINISHED) as bell:
                cancelling = Cancelling()
                try:
                    order_id, claimed = await _take_in(order, mine)
                    context.enter_context(about_one(order_id))
                    cancelling.opened = order_id if claimed else None
                    while (known := await patiently(lambda: read_one(order_id))) is None or known.outcome is None:
                        # a drain, or another run, works on it: its outcome is ours; or it waits for the gateway
                        if not await _work_on(order_id, mine, claimed, cancelling):
                            await bell.wait(settings().poll_seconds)
                        claimed = []
                except asyncio.CancelledError:
                    await _leave(mine, cancelling)
                    raise
            await _send_mail(order_id)
            await show_order(order_id)
        except BaseException as failure:  # cancelled or suspended, most likely: by now the order is undone, or handed back
            if order_id and not isinstance(failure, GeneratorExit):
                await show_order(order_id, leaving=not isinstance(failure, Exception))
            raise
        finally:
            context.close()
        await all_told()
        await board.settle()
        return state_of(known)


async def _take_in(order: Any, lease_id: UUID) -> tuple[str, list[OrderUnderWay]]:
    """Stores the order; its id, and the order if it is new. Then it is this run's from the beginning, and no drain has it first: who looks
    at this run finds the order's steps in it."""
    content = read(order)
    try:
        async with transaction(STORING) as tx:
            receipt = await store_one(tx, content, wake=False)
            claimed = await _claim(tx, lease_id, receipt.order_id) if receipt.order_id and receipt.status == "accepted" else []
    except Exception as error:
        if not is_database_trouble(error):
            raise
        await patiently(lambda: hand_back_all(lease_id))  # perhaps it is stored, and this run's without knowing it
        receipt, claimed = await patiently(lambda: submit_one(content)), []
    if receipt.order_id is None:
        take_in(order)  # raises what is wrong with its id
        raise UnusableOrder([])
    if receipt.status == "refused":
        raise OrderConflict(receipt.order_id)
    return receipt.order_id, claimed


async def _claim(tx: Tx, lease_id: UUID, order_id: str) -> list[OrderUnderWay]:
    return await journal.claim(tx, lease_id, most=1, ids=[order_id], flow_run_id=_run_id(), known=ORDER_SAGA.names)


def _run_id() -> str | None:
    return str(flow_run.id) if flow_run.id else None


async def _leave(lease_id: UUID, cancelling: Cancelling) -> None:
    """This run is cancelled, and perhaps has its order not in hand: it waits for the gateway or a customer, or a drain works on it. If it
    is not wanted it is undone, here and at once if nobody else has it."""
    if withdrawn := await cancelling.withdraw(cancelling.opened):
        await patiently(lambda: hand_back_all(lease_id))  # of a claim that was not heard of
        for order_id in withdrawn:
            await _work_on(order_id, lease_id, [], None)


async def _work_on(order_id: str, lease_id: UUID, claimed: list[OrderUnderWay], cancelling: Cancelling | None) -> bool:
    """Takes the order, `claimed` already or not, as far as it goes now. False: it is in somebody else's hands, or has to wait."""
    log = get_run_logger()
    try:
        if not claimed:
            async with transaction(journal.CLAIMING) as tx:
                claimed = await _claim(tx, lease_id, order_id)
        if claimed:
            tell_of_takeovers(claimed)
            await see_through(claimed[0], cancelling)
    except LeaseLost:
        log.warning("order %s has been taken over by another worker", order_id)
        return True
    except Exception as error:
        if not is_database_trouble(error):
            raise
        log.warning("the database is away (%s); order %s goes on when it is back", type(error).__name__, order_id)
        await patiently(lambda: hand_back_all(lease_id))  # it is unclear what this run holds: nothing, from here on
        return False  # after a pause: the trouble may be this order's own
    return bool(claimed)


async def _send_mail(order_id: str) -> None:
    try:
        if await outbox.is_due([order_id]):
            await deliver_outbox(ALL_OF_AN_ORDER, [order_id])
    except Exception as error:
        if not is_database_trouble(error):
            raise
        get_run_logger().warning("the database is away (%s); the mail of order %s is sent later", type(error).__name__, order_id)


async def see_through(order: OrderUnderWay, cancelling: Cancelling | None = None) -> None:
    """The saga's one code path, for a new order and for one that another worker left behind: runs the steps that the journal does not
    have as done; when one fails before the pivot, undoes what was begun, in reverse.

    Raises `LeaseLost` when another worker has the order, and database trouble: nothing is decided then, and the order is recovered.
    An order that has to wait, for a gateway that is down, is put off: nothing is decided about it either, and it is nobody's meanwhile.
    `cancelling`: for a run whose order it is. None: being cancelled says only that this worker has to go. Whatever else stops the run
    (it is suspended, its process has to end) decides nothing about the order: it is handed back with the lease.
    """
    step = ORDER_SAGA.steps[0]
    try:
        _look_back(order)
        await _brace(order)
        for step in ORDER_SAGA:
            if not order.done(step.name):
                await run(Work(step, [order]))
    except BaseException as failure:
        if await _only_stops_the_run(failure, order, cancelling):
            raise
        await reload(order)  # what was committed, whatever was heard of it
        if order.lost and isinstance(failure, Exception):  # whatever it was, it is the other worker's matter now
            raise LeaseLost(order.id) from failure
        if order.lost or is_database_trouble(failure):
            raise
        if isinstance(failure, Exception) and not isinstance(failure, OrderError):
            # What a step does wrong is an `OrderError` by now (`shop.work`): this is Prefect's engine, or its machine.
            failure = InfrastructureTrouble(step.name, failure)
        if isinstance(failure, OrderError) and has_to_wait(failure):
            await let_wait({order: failure})
            return
        if order.done(ORDER_SAGA.pivot) and order.failure is None:
            await _go_forward(order, failure)
        else:
            order.fail(step.name, failure if isinstance(failure, OrderError) else OrderCancelled())
            await compensate([order])
        if not isinstance(failure, Exception):
            raise
    else:
        await finish([order], ORDER_SAGA)


async def _only_stops_the_run(failure: BaseException, order: OrderUnderWay, cancelling: Cancelling | None) -> bool:
    """Whether the run stops for a reason that says nothing about its order: it is suspended, or its process has to end."""
    if isinstance(failure, asyncio.CancelledError):
        return cancelling is None or await cancelling.withdraw(order.id) is None
    return not isinstance(failure, Exception)


def _look_back(order: OrderUnderWay) -> None:
    """An order whose undoing another worker had begun is undone, one that is to be cancelled too (or sent back, if it is shipped), and one
    that nobody gets through is given up."""
    if order.failure is not None:
        raise order.failure
    if order.cancel_reason is not None:
        shipped = order.done(ORDER_SAGA.pivot)
        order.fail(CANCELLING, OrderReturned(order.cancel_reason) if shipped else OrderCancelled(order.cancel_reason))
        raise order.failure or OrderCancelled(order.cancel_reason)
    if order.lone_deaths > settings().max_takeovers and not order.done(ORDER_SAGA.pivot):
        raise GivenUp(order.lone_deaths)


class Cancelling:
    """What it means for its order that this run is cancelled: that nobody wants it, or that this process has to go."""

    def __init__(self) -> None:
        self.opened: str | None = None
        """The order, if this run brought it. One that was known before is somebody else's, and cancelled only while this run has it."""
        self._unwanted: bool | None = None

    async def withdraw(self, order_id: str | None) -> list[str] | None:
        """None if this process only has to go. Else it is written down, before anything is undone, that the order and whatever this run
        has is to be cancelled, unless it is shipped: should this process be killed meanwhile, it does not go forward. Returns the ids of
        what was not to be cancelled before."""
        if self._unwanted is None:  # asked once: a process that has to go has little time
            self._unwanted = await _is_unwanted()
        if not self._unwanted:
            return None
        return await patiently(
            lambda: withdraw(
                order_id=order_id,
                flow_run_id=_run_id(),
                reason=_REASON,
                requested_by=_SOMEBODY,
                started_by=f"cancelling of Prefect run {_run_id()}",
            ),
        )


async def _is_unwanted() -> bool:
    """Whether whoever cancelled this run does not want the order. A caller in this process does not. Of a run that a worker started only
    Prefect can tell; if it does not say so, the process has to go (SIGTERM: its worker is stopped), and the order goes on elsewhere."""
    if os.environ.get(_STARTED_BY_WORKER) != str(flow_run.id):
        return True
    try:
        async with asyncio.timeout(_ASK_SECONDS), get_client() as client:
            state = (await client.read_flow_run(UUID(str(flow_run.id)))).state
    except Exception as error:  # noqa: BLE001  (a server that does not answer has told nobody to cancel)
        get_logger("orders").warning("the Prefect server does not say whether this run was cancelled (%s)", type(error).__name__)
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())


async def reload(order: OrderUnderWay) -> None:
    """Reads the order's journal anew; marks the order as lost if another worker has it."""
    async with transaction() as tx:
        if await journal.hold(tx, [order]):
            await journal.load(tx, [order])


async def _brace(order: OrderUnderWay) -> None:
    """A shipped order that stops its workers is never undone for that. It is tried again and again, but rarely."""
    too_often = order.lone_deaths - settings().max_takeovers
    if too_often <= 0:
        return
    seconds = min(_LONGEST_REST_SECONDS, 60 * 2 ** min(too_often, 30))
    why = str(GivenUp(order.lone_deaths))
    get_logger("orders").error("order %s is shipped, and %s: should that happen again, it waits for %.0f s", order.id, why, seconds)
    await wait_if_it_dies(order, seconds)


async def _go_forward(order: OrderUnderWay, failure: BaseException) -> None:
    """Past the pivot nothing is undone. A cancelled run does what is left; a step that failed is tried again later."""
    if isinstance(failure, Exception):
        get_logger("orders").error("order %s is shipped, and %s: it is tried again", order.id, failure)
        await put_off([order], seconds=min(300, 5 * 2**order.takeovers))
        return
    for step in ORDER_SAGA:
        if not order.done(step.name):
            await run(Work(step, [order]))
    await finish([order], ORDER_SAGA)
