"""The context of one order's saga in a flow run: lease, cancellation, mail and artifacts at the end; and how
an order continues that a person has reopened: with the same saga, with what is still due."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.logging import get_logger, get_run_logger
from prefect.runtime import flow_run

from flows.attention_artifact import artifacts_shown
from flows.order_picture import report_takeovers, show_order
from flows.order_saga import ORDER_SAGA
from flows.runs import named
from saga import claims, wakeup
from saga.asyncio_tasks import complete
from saga.database import Tx, is_database_error, retry_while_database_down, transaction
from saga.lease import lease, release_all
from saga.log_context import about_instance
from saga.prefect.batch import run_claimed
from saga.prefect.instance_run import InstanceRun, run_id
from saga.prefect.termination import cancelled_by_sigterm
from saga.wakeup import Listener
from shop.notifications import outbox
from shop.notifications.kinds import ALL_OF_AN_ORDER
from shop.orders.errors import OrderConflict, UnusableOrder
from shop.orders.intake import STORING, read, store_one, submit_one
from shop.orders.names import run_name
from shop.orders.order import Order, OrderInstance
from shop.orders.outcomes import OrderOutcome
from shop.orders.report import read_one
from shop.orders.store import ORDERS
from shop.review.cancel import withdraw
from shop.settings import settings
from tasks.background import deliver_outbox

_ASK_SECONDS = 5
"""Timeout for asking the Prefect server whether this run was cancelled."""
_REASON, _REQUESTED_BY = "its run was cancelled", "whoever cancelled the run"
_STARTED_BY_WORKER = "PREFECT__FLOW_RUN_ID"
"""The environment variable in which workers and `serve` pass a process the id of its run."""


@asynccontextmanager
async def order_run(order: object) -> AsyncIterator[OrderRun]:
    """Holds a lease while its body processes one order, after which it names the run.

    At the end it sends the order's mail and shows the order's page and the manual review artifact. A
    cancelled run cancels its order unless the order is shipped; a run whose process is stopped releases it.
    """
    run: OrderRun | None = None
    async with cancelled_by_sigterm(), named(run_name("order", order)), artifacts_shown():
        with ExitStack() as log_context:
            try:
                async with (
                    lease(ORDERS) as mine,
                    wakeup.listening_when_waiting(ORDERS, wakeup.FINISHED) as listener,
                ):
                    run = OrderRun(mine, listener, log_context)
                    try:
                        yield run
                    except asyncio.CancelledError:
                        await run.leave()
                        raise
                await send_mail(run.instance_id)
                await show_order(run.instance_id)
            except BaseException as failure:  # by now the order is compensated, or released
                if run is not None and run.instance_id and not isinstance(failure, GeneratorExit):
                    await show_order(run.instance_id, leaving=not isinstance(failure, Exception))
                raise


class OrderRun(InstanceRun[Order]):
    """The run of one order."""

    def __init__(self, lease_id: UUID, listener: Listener, log_context: ExitStack) -> None:
        super().__init__(ORDER_SAGA, ORDERS, lease_id, listener)
        self._log_context = log_context
        self._own: str | None = None
        """The order's id if this run stored it. An order that it did not store is cancelled only while this
        run has claimed it."""
        self._cancelled: bool | None = None

    async def accept(self, order: object) -> OrderInstance | None:
        """Stores the order. Returns it if it is new: this run claims it at once, so that its steps appear in
        this run.

        Raises `UnusableOrder` and `OrderConflict`.
        """
        content = read(order)
        if isinstance(content, UnusableOrder):
            raise content
        claimed = None
        try:
            async with transaction(STORING) as tx:
                receipt = await store_one(tx, content, wake=False)
                if receipt.status == "accepted":
                    claimed = await self._claim(tx, content.order_id)
        except Exception as error:  # noqa: BLE001  (`release_after` raises what is no database error)
            await self.release_after(error)  # the commit may have succeeded
            receipt, claimed = await retry_while_database_down(lambda: submit_one(content)), None
        if receipt.status == "refused":
            raise OrderConflict(content.order_id)
        self.instance_id = content.order_id
        self._log_context.enter_context(about_instance(ORDERS, self.instance_id))
        self._own = self.instance_id if claimed else None
        return claimed

    async def read_outcome(self) -> OrderOutcome | None:
        """Returns the order's outcome, or that it waits for a transfer: no run waits for days. None: it has
        none yet."""
        known = await retry_while_database_down(lambda: read_one(self.instance_id))
        return known if known is not None and (known.outcome is not None or known.awaits_money) else None

    async def _claim(self, tx: Tx, instance_id: str) -> OrderInstance | None:
        claimed = await super()._claim(tx, instance_id)
        report_takeovers([claimed] if claimed else [])
        return claimed

    async def withdraw(self, instance_id: str | None) -> list[str] | None:
        """Commits cancel requests for the order and for all orders that this run has claimed, unless they are
        shipped: even if this process is killed now, they do not continue. Returns the ids of newly cancelled
        orders; None if this run was not cancelled, and only its process has to end.

        A run that is cancelled again meanwhile commits them all the same.
        """
        return await complete(self._withdraw(instance_id))

    async def _withdraw(self, instance_id: str | None) -> list[str] | None:
        if self._cancelled is None:  # asked once: a process that is being stopped has little time
            self._cancelled = await _is_cancelled()
        if not self._cancelled:
            return None
        by = f"cancelling of Prefect run {run_id()}"
        return await retry_while_database_down(
            lambda: withdraw(
                order_id=instance_id,
                flow_run_id=run_id(),
                reason=_REASON,
                requested_by=_REQUESTED_BY,
                started_by=by,
            )
        )

    async def leave(self) -> None:
        """Cancels the order of a cancelled run that does not have it claimed: it is postponed, or another
        worker has it. If no worker has it, compensates it at once."""
        withdrawn = await self.withdraw(self._own)
        if withdrawn:
            await retry_while_database_down(
                lambda: release_all(ORDERS, self._lease)
            )  # a claim may have been committed without an answer
        for order_id in withdrawn or ():
            if (claimed := await self.claim(order_id)) is not None:
                await self.run(claimed, leaving=True)


async def send_mail(order_id: str) -> None:
    """Sends the order's mail. If the database is unavailable, a consumer sends it later."""
    try:
        if await outbox.is_due([order_id]):
            await deliver_outbox(ALL_OF_AN_ORDER, [order_id])
    except Exception as error:
        if not is_database_error(error):
            raise
        get_run_logger().warning(
            "the database is unavailable (%s); the mail of order %s is sent later",
            type(error).__name__,
            order_id,
        )


async def _is_cancelled() -> bool:
    """Returns whether this run was cancelled in order to cancel its order. In a process that no worker
    started, every cancellation counts. For a run that a worker started, the Prefect server decides; if it
    does not answer, only the process has to end, and the order continues elsewhere."""
    if os.environ.get(_STARTED_BY_WORKER) != str(flow_run.id):
        return True
    try:
        async with asyncio.timeout(_ASK_SECONDS), get_client() as client:
            state = (await client.read_flow_run(UUID(str(flow_run.id)))).state
    except Exception as error:  # noqa: BLE001  (without an answer, the run does not count as cancelled)
        get_logger("orders").warning(
            "reading from the Prefect server whether this run was cancelled failed (%s)", type(error).__name__
        )
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())


async def _run_reopened(order_id: str) -> bool:
    """Takes the order to its outcome, unless a worker has claimed it. Returns whether it did."""

    async def claim(lease_id: UUID, _survived: int) -> Sequence[OrderInstance]:
        run = str(flow_run.id)
        return await claims.claim_batch(
            ORDERS, lease_id, most=1, ids=[order_id], flow_run_id=run, known=ORDER_SAGA.names
        )

    return await run_claimed(ORDER_SAGA, ORDERS, claim) > 0


async def finish_reopened(order_id: str) -> OrderOutcome:
    """Takes the order to its outcome, or until it waits for a transfer, or waits for the worker that has
    claimed it; then sends its mail and shows its page."""
    async with artifacts_shown():
        known = await _wait_for_outcome(order_id)
        await send_mail(order_id)
        await show_order(order_id)
    return known


async def _wait_for_outcome(order_id: str) -> OrderOutcome:
    async with wakeup.listening(ORDERS, wakeup.FINISHED) as listener:
        while (known := await read_one(order_id)) is None or (
            known.outcome is None and not known.awaits_money
        ):
            if not await _run_reopened(order_id):
                await listener.wait(settings().poll_seconds)
    return known
