"""One step for many orders outside: the intent is committed first, each order ends by itself, and no call is made twice."""

from __future__ import annotations

import asyncio
import errno
import itertools
import re
import time
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from saga.checkpoint import checkpoint
from saga.database import Tx, transaction
from saga.errors import BatchFailing, DatabaseTimeout, InfrastructureError, LeaseLost, StepError, StepTimeout, UnexpectedStepError
from saga.execution import StepExecution
from saga.external_action import run_external
from shop.inventory.errors import InventoryRefused
from shop.orders.order import OrderInstance
from shop.payments.errors import PaymentDeclined, PaymentGatewayError
from shop.shipping.errors import CarrierRefused, VoidRefused
from tests.integration.domain import Shop
from tests.integration.scripted import ACT, Ends, Outside, busy, gone, ids, some, statuses, step
from tests.waiting import until

pytest_plugins = ["tests.integration.domain_fixtures", "tests.integration.work_fixtures"]


async def test_the_intent_is_committed_before_the_call_and_the_result_after(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    seen: list[Any] = []

    async def look(order: OrderInstance) -> Ends:
        row = await shop.step(order.id, "act")  # another connection
        seen.append((row.status, row.undo_due, row.attempts))
        return {"x": 1}

    await run_external(StepExecution(ACT, [order]), look)
    assert seen == [("begun", True, 1)]
    row = await shop.step("A", "act")
    assert (row.status, row.undo_due, row.result, row.attempts) == ("done", True, {"x": 1}, 1)


async def test_each_order_of_a_batch_ends_by_itself(shop: Shop) -> None:
    orders = await some(shop, *"ABCDEFGHIJ")
    act = Outside(B=PaymentDeclined("card_declined", "no"), C=busy(), D=ZeroDivisionError("secret"))
    work = StepExecution(ACT, orders)
    await run_external(work, act)
    assert ids(work.done) == list("AEFGHIJ")
    assert {order.id: type(end) for order, end in work.failed.items()} == {"B": PaymentDeclined, "D": UnexpectedStepError}
    assert ids(work.detached) == ["C"]
    assert set(act.calls.values()) == {1}
    rows = {row.order_id: row for row in await shop.rows("SELECT * FROM order_step")}
    assert {i: row.status for i, row in rows.items()} == {
        **dict.fromkeys("AEFGHIJ", "done"),
        "B": "failed",
        "C": "begun",
        "D": "failed",
    }
    assert {row.undo_due for row in rows.values()} == {True}, "whatever failed outside may have done something"
    assert "secret" not in str(rows["D"].error)
    await run_external(StepExecution(ACT, work.detached), act)
    assert act.calls["C"] == 2
    row = await shop.step("C", "act")
    assert (row.status, row.attempts) == ("done", 2)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "secret"),
        OSError(errno.ENOSPC, "secret"),
        MemoryError("secret"),
        httpx.ConnectError("secret"),
        DBAPIError.instance("SELECT 1", {}, psycopg.errors.UndefinedTable("secret"), psycopg.Error),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_order_waits_for_the_infrastructure_and_the_others_of_its_batch_go_on(shop: Shop, error: Exception) -> None:
    orders = await some(shop, *"ABC")
    act, work = Outside(B=[error, error]), StepExecution(ACT, orders)
    await run_external(work, act)
    assert (ids(work.done), work.failed, work.detached) == (["A", "C"], {}, [])
    (trouble,) = work.postponed.values()
    assert isinstance(trouble, InfrastructureError)
    assert trouble.retry_after
    assert "secret" not in str(trouble.details())
    with pytest.raises(InfrastructureError):
        await run_external(StepExecution(ACT, [orders[1]]), act)
    row = await shop.step("B", "act")
    assert (row.status, row.undo_due, row.error["code"]) == ("failed", True, "infrastructure")
    await run_external(StepExecution(ACT, [orders[1]]), act)
    assert (await shop.step("B", "act")).status == "done"


async def test_a_file_name_that_an_order_brings_is_the_orders_own_fault(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    with pytest.raises(UnexpectedStepError):
        await run_external(StepExecution(ACT, [order]), Outside(A=OSError(errno.ENAMETOOLONG, "File name too long")))


async def test_a_single_orders_failure_is_raised_and_tried_again(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    act, work = Outside(A=[busy(), PaymentDeclined("card_declined", "no")]), StepExecution(ACT, [order])
    with pytest.raises(PaymentGatewayError):
        await run_external(work, act)
    row = await shop.step("A", "act")
    assert (row.status, row.undo_due, row.attempts) == ("failed", True, 1)
    with pytest.raises(PaymentDeclined):
        await run_external(work, act)
    await run_external(StepExecution(ACT, [order]), act)
    row = await shop.step("A", "act")
    assert (row.status, row.attempts, row.error) == ("done", 3, None)
    assert act.calls["A"] == 3


async def test_more_than_a_fifth_failing_is_the_batchs_trouble_and_a_second_run_does_only_those(shop: Shop) -> None:
    orders = await some(shop, *"ABCDEFGHIJ")
    act = Outside(B=busy(), C=busy(), D=busy(), E=PaymentDeclined("card_declined", "no"))
    work = StepExecution(ACT, orders)
    with pytest.raises(BatchFailing) as struggling:
        await run_external(work, act)
    assert struggling.value.retryable
    assert ids(work.detached) == ["B", "C", "D"]
    await run_external(work, act)
    assert {i: n for i, n in act.calls.items() if n > 1} == {"B": 2, "C": 2, "D": 2}
    assert ids(work.done) == list("AFGHIJBCD")
    assert (ids(list(work.failed)), work.detached) == (["E"], [])
    assert {row.order_id: row.attempts for row in await shop.rows("SELECT * FROM order_step")} == {
        **dict.fromkeys("AEFGHIJ", 1),
        **dict.fromkeys("BCD", 2),
    }


async def test_a_fifth_may_leave(shop: Shop) -> None:
    orders = await some(shop, *"ABCDEFGHIJ")
    work = StepExecution(ACT, orders)
    await run_external(work, Outside(B=busy(), C=busy()))
    assert ids(work.detached) == ["B", "C"]


@pytest.mark.parametrize("n", [2, 3, 4])
async def test_of_a_small_batch_one_may_leave(shop: Shop, n: int) -> None:
    work = StepExecution(ACT, await some(shop, *"ABCD"[:n]))
    await run_external(work, Outside(A=busy()))
    assert ids(work.detached) == ["A"]
    assert len(work.done) == n - 1


async def test_a_slow_order_leaves_the_batch_and_its_call_is_not_made_twice(shop: Shop) -> None:
    orders = await some(shop, *"ABCDE")
    act, work = Outside(), StepExecution(ACT, orders, straggler_timeout=0.2)
    answer = act.slow("C")
    await run_external(work, act)
    assert (ids(work.detached), ids(work.done)) == (["C"], list("ABDE"))
    assert await statuses(shop) == {**dict.fromkeys("ABDE", "done"), "C": "begun"}
    alone = asyncio.create_task(run_external(StepExecution(ACT, work.detached), act))

    async def waited_for() -> bool:
        return not orders[2].in_flight

    await until(waited_for, 10, "the order to be waited for alone")
    answer.set()
    await alone
    assert act.calls == dict.fromkeys("ABCDE", 1)
    row = await shop.step("C", "act")
    assert (row.status, row.result, row.attempts) == ("done", {"called": "C"}, 1)


async def test_a_slow_order_that_is_answered_while_the_others_are_written_does_not_go_on_with_them(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the model: it had no end in its journal, and was shipped with the others although its card was refused."""
    orders = await some(shop, *"ABCDE")
    act, work = Outside(C=PaymentDeclined("card_declined", "no")), StepExecution(ACT, orders, straggler_timeout=0.2)
    answer, transactions = act.slow("C"), itertools.count()

    @asynccontextmanager
    async def answered_meanwhile(*commit: Any, **limit: Any) -> AsyncIterator[Tx]:
        async with transaction(*commit, **limit) as tx:
            yield tx
            if next(transactions) == 1:  # after the intent's
                answer.set()
                await until(answered, 10, "the answer")

    async def answered() -> bool:
        return not act.busy("C")

    monkeypatch.setattr("saga.external_action.transaction", answered_meanwhile)
    await run_external(work, act)
    assert (ids(work.detached), ids(work.done)) == (["C"], list("ABDE"))
    with pytest.raises(PaymentDeclined):
        await run_external(StepExecution(ACT, work.detached), act)
    assert act.calls == dict.fromkeys("ABCDE", 1)
    assert await statuses(shop) == {**dict.fromkeys("ABDE", "done"), "C": "failed"}


async def test_a_slow_order_may_fail_too(shop: Shop) -> None:
    orders = await some(shop, *"AB")
    act = Outside(B=[PaymentDeclined("card_declined", "no")])
    work = StepExecution(ACT, orders, straggler_timeout=0.2)
    answer = act.slow("B")
    await run_external(work, act)
    answer.set()
    with pytest.raises(PaymentDeclined):
        await run_external(StepExecution(ACT, work.detached), act)
    assert act.calls == {"A": 1, "B": 1}
    assert await statuses(shop) == {"A": "done", "B": "failed"}


async def test_a_crowd_of_slow_ones_is_waited_for(shop: Shop) -> None:
    """If most are slow it is no matter of single orders."""
    orders = await some(shop, *"ABCDE")
    act, work = Outside(), StepExecution(ACT, orders, straggler_timeout=0.1)
    answers = [act.slow(i) for i in "ABC"]
    running = asyncio.create_task(run_external(work, act))
    done, _ = await asyncio.wait([running], timeout=0.5)
    assert not done
    for answer in answers:
        answer.set()
    await running
    assert sorted(ids(work.done)) == list("ABCDE")
    assert act.calls == dict.fromkeys("ABCDE", 1)


@pytest.mark.parametrize("n", [1, 3])
async def test_time_that_our_own_database_took_is_not_the_outside_s(shop: Shop, n: int) -> None:
    """What they note waits for a lock until their time is over: nothing is decided about the orders, and they go on later."""
    orders, locked, over = await some(shop, *"ABC"[:n]), asyncio.Event(), asyncio.Event()

    async def lock() -> None:
        async with transaction() as tx:
            await tx.execute(text("SELECT 1 FROM lease FOR UPDATE"))
            locked.set()
            await over.wait()

    async def act(order: OrderInstance) -> Ends:
        await locked.wait()
        try:
            await checkpoint(order, "act", told=True)
        finally:
            over.set()
        return {}

    work = StepExecution(step(time_limit=0.3), orders)
    locking: list[asyncio.Task[None]] = []

    async def first_lock(order: OrderInstance) -> Ends:
        if not locking:
            locking.append(asyncio.create_task(lock()))
        return await act(order)

    if n == 1:
        with pytest.raises(DatabaseTimeout) as failed:
            await run_external(work, first_lock)
        assert failed.value.retry_after
    else:
        await run_external(work, first_lock)
        assert {type(why) for why in work.postponed.values()} == {DatabaseTimeout}
        assert ids(list(work.postponed)) == list("ABC")
    await locking[0]
    again = StepExecution(ACT, orders)
    await run_external(again, act)
    assert ids(again.done) == list("ABC"[:n])
    assert await statuses(shop) == dict.fromkeys("ABC"[:n], "done")


async def test_a_single_order_is_waited_for_up_to_its_time_limit(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    act = Outside()
    act.slow("A")
    work = StepExecution(step(time_limit=0.2), [order], straggler_timeout=0.01)
    with pytest.raises(StepTimeout) as timeout:
        await run_external(work, act)
    assert timeout.value.retryable
    row = await shop.step("A", "act")
    assert (row.status, row.undo_due) == ("failed", True), "what timed out may have been done"
    act.slow("A").set()
    await run_external(work, act)
    assert act.at_once == {"A": 1}


async def test_trouble_with_the_database_does_not_make_a_slow_call_twice_at_once(shop: Shop, unheard: Any) -> None:
    """While one order is still at the gateway another one's notes cannot be written: the batch is tried again. A second call beside the
    first would charge twice at a gateway that forgets keys."""
    orders = await some(shop, *"ABCDEFGHIJ")
    act, work = Outside(B=gone()), StepExecution(ACT, orders, straggler_timeout=0.2)
    answer = act.slow("C")
    with pytest.raises(OperationalError):
        await run_external(work, act)
    second = asyncio.create_task(run_external(work, act))
    try:
        await asyncio.wait([second], timeout=1)
        assert act.at_once["C"] == 1
    finally:
        answer.set()
        await asyncio.wait([second], timeout=20)
    for order in work.detached:
        await run_external(StepExecution(ACT, [order]), act)
    assert set((await statuses(shop)).values()) == {"done"}


async def test_trouble_with_the_database_leaves_no_call_unheard(shop: Shop, unheard: Callable[[], list[str]]) -> None:
    """What the gateway has answered meanwhile is not thrown away."""
    orders = await some(shop, *"ABCD")
    work = StepExecution(ACT, orders)

    async def run() -> None:
        with pytest.raises(OperationalError):
            await run_external(work, Outside(A=gone(), B=gone(), C=PaymentDeclined("card_declined", "no")))

    await run()
    assert unheard() == []


async def test_whoever_is_cancelled_takes_its_calls_with_it(shop: Shop) -> None:
    orders = await some(shop, "A", "B")
    act = Outside()
    act.slow("A")
    act.slow("B")
    running = asyncio.create_task(run_external(StepExecution(ACT, orders), act))

    async def called() -> bool:
        return act.calls == {"A": 1, "B": 1}

    await until(called, 10, "both calls to be under way")
    running.cancel()
    assert (await asyncio.wait([running], timeout=10))[0], "it does not wait for the calls to end by themselves"
    assert running.cancelled()
    assert act._now == {"A": 0, "B": 0}
    assert await statuses(shop) == {"A": "begun", "B": "begun"}
    assert [order.undo_plan() for order in orders] == [("act",), ("act",)]


async def test_a_lost_order_is_not_called_and_the_others_are(shop: Shop) -> None:
    orders = await some(shop, *"AB")
    await shop.let_leases_run_out()
    await shop.claim("A")
    act, work = Outside(), StepExecution(ACT, orders)
    await run_external(work, act)
    assert act.calls == {"B": 1}
    assert (ids(work.done), work.failed, work.detached) == (["B"], {}, [])
    orders[0].lost = False
    with pytest.raises(LeaseLost):
        await run_external(StepExecution(ACT, orders[:1]), act)
    assert act.calls == {"B": 1}


async def test_an_order_that_is_lost_during_its_call_records_nothing(shop: Shop) -> None:
    orders = await some(shop, *"AB")
    before: list[Any] = []

    async def taken_meanwhile(order: OrderInstance) -> Ends:
        if order.id == "A":
            await shop.let_leases_run_out()
            assert ids(await shop.claim("A")) == ["A"]
            before.append(await shop.step("A", "act"))
        return {"x": 1}

    work = StepExecution(ACT, orders)
    await run_external(work, taken_meanwhile)
    assert await shop.step("A", "act") == before[0]
    assert (ids(work.done), orders[0].lost) == (["B"], True)


answers = st.lists(st.sampled_from(["ok", "busy", "no", "broken", "gone"]), max_size=3)
_runs = itertools.count()


@hypothesis_settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(scripts=st.lists(answers, min_size=1, max_size=12))
async def test_every_order_ends_once_whatever_the_others_do(shop: Shop, unheard: Any, scripts: list[list[str]]) -> None:
    """A batch as the lane runs it: tried again while that can help, then each that is left, alone. What is clear stays so."""
    run = next(_runs)
    means: dict[str, Callable[[], Any]] = {
        "ok": lambda: None,
        "busy": busy,
        "no": lambda: PaymentDeclined("no", "no"),
        "broken": ZeroDivisionError,
        "gone": gone,
    }
    passing = [list(itertools.takewhile(lambda word: word in {"busy", "gone"}, script)) for script in scripts]
    clear = [next((word for word in script if word not in {"busy", "gone"}), "ok") for script in scripts]
    plans = {
        f"{run}-{n}": [means[word]() for word in (*first, *[last] * 60)] for n, (first, last) in enumerate(zip(passing, clear, strict=True))
    }
    orders = await some(shop, *plans)
    act = Outside(**plans)
    ends: dict[str, str] = {}

    async def through(batch: Sequence[OrderInstance]) -> None:
        work = StepExecution(ACT, batch)
        for _ in range(60):
            try:
                await run_external(work, act)
                break
            except (OperationalError, BatchFailing):
                continue
            except StepError as error:
                if not error.retryable:
                    ends[batch[0].id] = "failed"
                    return
        else:
            pytest.fail("no end")
        ends.update({order.id: "done" for order in work.done})
        ends.update({order.id: "failed" for order in work.failed})
        assert {*ids(work.done), *ids(list(work.failed)), *ids(work.detached)} == set(ids(batch))
        for order in work.detached:
            await through([order])

    await through(orders)
    assert set(ends) == set(plans)
    assert [ends[i] for i in plans] == ["done" if word == "ok" else "failed" for word in clear]
    assert all(act.calls[i] > len(first) for i, first in zip(plans, passing, strict=True))
    assert set(act.at_once.values()) == {1}
    journal = dict(await shop.rows("SELECT order_id, status FROM order_step WHERE order_id LIKE :run", run=f"{run}-%"))
    assert journal == ends


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (CarrierRefused("EasyPost: house 'Qmarker Street 9' is not in QTOWN; try again (ADDRESS.NOT_FOUND)"), "ADDRESS.NOT_FOUND"),
        (VoidRefused("EasyPost does not take back what goes to jane.qmarker@example.com"), "does not take back"),
        (PaymentGatewayError("no_such_token", "no such token: 'tok_qmarker'"), "no_such_token"),
        (PaymentDeclined("card_declined", "declined for Jane  Qmarker"), "card_declined"),
        (InventoryRefused("the inventory service refused (400): Qtown is not served"), "is not served"),
        (KeyError("Qmarker Street 9"), "KeyError"),
        (ValueError({"city": "Qtown"}), "ValueError"),
    ],
)
async def test_what_a_customer_typed_and_somebody_repeats_is_in_no_journal_state_or_log(
    shop: Shop, error: Exception, kept: str, caplog: pytest.LogCaptureFixture
) -> None:
    (order,) = await some(shop, "A")
    order.content |= {
        "customer_name": "Jane Qmarker",
        "customer_email": "jane.qmarker@example.com",
        "payment_info": {"method": "credit_card", "token": "tok_qmarker"},
        "shipping_info": {"address": "Qmarker Street 9", "city": "Qtown", "country": "US"},
    }
    with pytest.raises(StepError) as raised:
        await run_external(StepExecution(ACT, [order]), Outside(A=error))
    row = await shop.step("A", "act")
    prefect_shows = "".join(traceback.format_exception(raised.value)[-1:])
    logged = " ".join(str(vars(record)) for record in caplog.records)
    for shown in (str(row.error), str(raised.value), str(raised.value.reasons()), str(raised.value.details()), prefect_shows, logged):
        assert not re.search("qmarker|qtown|jane", shown, re.IGNORECASE), shown
    assert kept in str(row.error)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


async def test_however_long_the_orders_are_that_are_declined_others_have_their_turns(shop: Shop) -> None:
    """Else no lease would be renewed meanwhile. Measured in processor time: seconds if there were no turn between them."""
    orders = [order for first in range(0, 400, 50) for order in await some(shop, *(f"O{first + more}" for more in range(50)))]
    for order in orders:
        order.content |= {"items": [{"name": f"ünusual {item} {'wört ' * 20}"} for item in range(1_000)]}
    work, longest, over = StepExecution(ACT, orders), 0.0, False

    async def declined(_: OrderInstance) -> Ends:
        raise PaymentDeclined("card_declined", "the bank does not know wört 17, ünusual")

    async def look() -> None:
        nonlocal longest
        since = time.process_time()
        while not over:
            await asyncio.sleep(0)
            longest, since = max(longest, time.process_time() - since), time.process_time()

    looking = asyncio.create_task(look())
    try:
        await run_external(work, declined)
    finally:
        over = True
        await looking
    assert len(work.failed) == 400
    assert {str(error) for error in work.failed.values()} == {"the bank does not know [customer's] 17, [customer's] (card_declined)"}
    assert longest < 0.5
