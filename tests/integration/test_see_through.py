"""The story of one order when another worker has taken it over: whatever went wrong here is no longer this worker's to judge."""

from __future__ import annotations

import asyncio
import errno
import signal
from contextlib import ExitStack

import httpx
import psycopg
import pytest
from prefect.exceptions import Abort, MissingResult, Pause, PrefectHTTPStatusError, TerminationSignal
from sqlalchemy.exc import DBAPIError, OperationalError, ResourceClosedError

import flows.order_run
import saga.prefect.compensation
import saga.prefect.run
from flows.order_run import OrderRun
from flows.order_saga import ORDER_SAGA
from saga.errors import LeaseLost, StepError
from saga.execution import StepExecution
from saga.finish import record_failures
from saga.prefect.compensation import compensate
from saga.prefect.run import run_saga
from saga.wakeup import Listener
from shop.orders.order import OrderInstance
from shop.payments.errors import PaymentDeclined
from tests.integration.domain import Shop, an_order, begin, begin_undo, end_undo

pytest_plugins = ["tests.integration.domain_fixtures"]

CHARGE = "process_payment"


def an_order_run(order: OrderInstance) -> OrderRun:
    """A run that has the order under its lease."""
    assert order.lease is not None
    return OrderRun(order.lease, Listener(), ExitStack())


REQUEST = httpx.Request("POST", "http://prefect/api/task_runs/")


@pytest.mark.parametrize(
    "failure",
    [
        ValueError("nobody foresaw this"),
        KeyError("validate_order"),
        PaymentDeclined("card_declined", "no"),
        OperationalError("SELECT 1", {}, Exception("server closed the connection")),
        LeaseLost("A"),
    ],
    ids=lambda failure: type(failure).__name__,
)
async def test_what_fails_for_an_order_that_is_anothers_now_decides_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """Found by the model: the flow failed with an error of its own, or undid what the other worker had in hand."""
    (order,) = await shop.instance(an_order())
    await begin(CHARGE, [order])
    taken = []

    async def overtaken(_work: StepExecution) -> None:
        if not taken:
            await shop.let_leases_run_out()
            taken.extend(await shop.claim("A"))
            raise failure
        pytest.fail("it goes on with another's order")

    monkeypatch.setattr(saga.prefect.run, "run_step", overtaken)
    with pytest.raises(LeaseLost) as lost:
        await run_saga(ORDER_SAGA, order, an_order_run(order))
    assert lost.value is failure or lost.value.__cause__ is failure
    row, step = await shop.order("A"), await shop.step("A", CHARGE)
    assert (row.fence, row.lease_id, row.outcome, row.failure) == (2, taken[0].lease, None, None)
    assert (step.status, step.undo_due, step.undo_status) == ("begun", True, None)


async def test_a_cancelled_run_whose_order_is_anothers_now_is_just_cancelled(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    (order,) = await shop.instance(an_order())

    async def overtaken(_work: StepExecution) -> None:
        await shop.let_leases_run_out()
        await shop.claim("A")
        raise asyncio.CancelledError

    monkeypatch.setattr(saga.prefect.run, "run_step", overtaken)
    with pytest.raises(asyncio.CancelledError):
        await run_saga(ORDER_SAGA, order, an_order_run(order))
    assert (await shop.order("A")).failure is None


@pytest.mark.parametrize(
    "stopped",
    [Pause(), Abort(), TerminationSignal(signal.SIGTERM), GeneratorExit(), KeyboardInterrupt(), SystemExit(1)],
    ids=lambda stopped: type(stopped).__name__,
)
@pytest.mark.parametrize("undoing", [False, True], ids=["going forward", "being undone"])
async def test_what_stops_a_run_decides_nothing_about_its_order(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, stopped: BaseException, undoing: bool
) -> None:
    """Only a cancelled run cancels. Whatever else is no ordinary exception, such as Prefect's signal that a run is suspended, is none."""
    (order,) = await shop.instance(an_order())
    await begin(CHARGE, [order])
    if undoing:
        order.fail(CHARGE, PaymentDeclined("card_declined", "no"))
        await record_failures([order])
    asked = []

    async def stops(_work: StepExecution) -> None:
        raise stopped

    async def unwanted() -> bool:
        asked.append(True)
        return True

    monkeypatch.setattr(saga.prefect.run, "run_step", stops)
    monkeypatch.setattr(saga.prefect.compensation, "run_step", stops)
    monkeypatch.setattr(flows.order_run, "_is_cancelled", unwanted)
    with pytest.raises(type(stopped)):
        await run_saga(ORDER_SAGA, order, an_order_run(order))
    row, step = await shop.order("A"), await shop.step("A", CHARGE)
    assert (row.outcome, row.cancel_requested_at, row.failure is not None) == (None, None, undoing)
    assert (step.status, step.undo_due, step.undo_status) == ("begun", True, None)
    assert not asked


async def test_one_that_is_anothers_now_does_not_stop_the_undoing_of_others(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else could take those up: they are under a lease that lives."""
    lost, other = await shop.instance(an_order("A"), an_order("B"))
    await begin("check_inventory", [lost])
    await begin(CHARGE, [other])
    for order in (lost, other):
        order.fail(CHARGE, PaymentDeclined("card_declined", "no"))

    async def undone(work: StepExecution) -> None:
        if work.instances == [lost]:
            lost.lost = True
            raise LeaseLost("A")
        await begin_undo(work.step.name, work.instances)
        await end_undo(work.step.name, work.instances, {"compensation_status": "nothing_to_refund"})

    monkeypatch.setattr(saga.prefect.compensation, "run_step", undone)
    await compensate(ORDER_SAGA, [lost, other])
    assert ((await shop.order("A")).outcome, (await shop.order("B")).outcome) == (None, "compensated")


@pytest.mark.parametrize(
    "failure",
    [
        PrefectHTTPStatusError("503", request=REQUEST, response=httpx.Response(503, request=REQUEST)),
        httpx.ConnectError("the Prefect server is away"),
        MissingResult("Prefect's own"),
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("can't start new thread"),
        ExceptionGroup("several", [OSError(errno.ENOSPC, "No space left on device")]),
        ResourceClosedError("This Connection is closed"),
        MemoryError(),
        DBAPIError.instance("SELECT 1", {}, psycopg.errors.UndefinedTable("no such table"), psycopg.Error),
    ],
    ids=lambda failure: type(failure).__name__,
)
@pytest.mark.parametrize("place", ["a step", "undoing"])
async def test_what_is_the_infrastructures_fault_decides_nothing(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, failure: Exception, place: str
) -> None:
    """Prefect's own errors among them: none of the order's steps has failed."""
    (order,) = await shop.instance(an_order())
    await begin(CHARGE, [order])

    async def fails(work: StepExecution) -> None:
        raise failure

    if place == "undoing":
        order.fail(CHARGE, PaymentDeclined("card_declined", "no"))
        monkeypatch.setattr(saga.prefect.compensation, "run_step", fails)
        with pytest.raises(type(failure)):
            await run_saga(ORDER_SAGA, order, an_order_run(order))
    else:
        monkeypatch.setattr(saga.prefect.run, "run_step", fails)
        await run_saga(ORDER_SAGA, order, an_order_run(order))
    row, step = await shop.order("A"), await shop.step("A", CHARGE)
    assert (row.outcome, row.takeovers) == (None, 0)
    assert (step.status, step.undo_due, step.undo_status) == ("begun", True, None)
    if place == "a step":
        assert (row.failure, row.lease_id, row.waits_for) == (None, None, "infrastructure")
        assert row.not_before is not None


async def test_the_same_failure_of_an_order_in_hand_is_judged(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the tests above cannot pass for nothing."""
    (order,) = await shop.instance(an_order())

    async def fails(_work: StepExecution) -> None:
        raise PaymentDeclined("card_declined", "no")

    monkeypatch.setattr(saga.prefect.run, "run_step", fails)
    await run_saga(ORDER_SAGA, order, an_order_run(order))
    assert isinstance(order.failure, StepError)
    assert (await shop.order("A")).outcome == "compensated"
