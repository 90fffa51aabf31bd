"""One step for many orders: each ends by itself, none is lost, and nothing is done twice; the effects are counted in the database."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

import shop.work
from shop import inventory
from shop.database import Tx, transaction
from shop.ending import finish
from shop.errors import (
    BatchStruggling,
    CarrierUnavailable,
    LeaseLost,
    OrderError,
    OutOfStock,
    PaymentDeclined,
    PaymentGatewayError,
    RefundRefused,
    Shortage,
    StepBroken,
    StepTimeout,
)
from shop.saga import Kind, Saga, Step
from shop.under_way import OrderUnderWay
from shop.work import Work, run_in_database, run_outside
from tests.integration.domain import Shop, an_order
from tests.waiting import until

pytest_plugins = ["tests.integration.domain_fixtures"]

LONG = 30.0
Ends = Mapping[str, Any]


async def not_run(work: Any) -> None:
    """Tests call `run_in_database` and `run_outside` themselves."""


def step(kind: Kind = Kind.COMPENSATABLE, *, name: str = "act", time_limit: float = LONG) -> Step:
    return Step(name, not_run, not_run if kind is Kind.COMPENSATABLE else None, kind, time_limit, 0)


ACT, READ, SHIP = step(), step(Kind.READ_ONLY, name="read"), step(Kind.PIVOT, name="ship")


def gone() -> OperationalError:
    return OperationalError("SELECT 1", {}, Exception("server closed the connection"))


def ids(orders: Sequence[OrderUnderWay]) -> list[str]:
    return [order.id for order in orders]


async def some(shop: Shop, *order_ids: str) -> list[OrderUnderWay]:
    return await shop.under_way(*map(an_order, order_ids))


async def statuses(shop: Shop, name: str = "act") -> dict[str, str]:
    """Order to the status in its journal."""
    return dict(await shop.rows("SELECT order_id, status FROM order_step WHERE step = :step", step=name))


class Effects:
    """An effect in our own database: a piece of stock for each order. Ends some orders otherwise."""

    def __init__(self, shop: Shop, **ends: Any) -> None:
        self.shop, self.ends, self.asked = shop, ends, list[list[str]]()

    async def __call__(self, tx: Tx, orders: Sequence[OrderUnderWay]) -> Ends:
        self.asked.append(ids(orders))
        done: dict[str, Any] = {}
        for order in orders:
            end = self.ends.get(order.id)
            if isinstance(end, OrderError):
                done[order.id] = end
                continue
            await tx.execute(text("UPDATE product SET on_hand = on_hand - 1 WHERE id = :id"), {"id": order.id})
            done[order.id] = {"piece": order.id}
            if isinstance(end, BaseException):
                raise end
        return done

    async def made(self) -> dict[str, int]:
        """How often each order's effect was made, of those that were made at all."""
        return {row.id: row.n for row in await self.shop.rows("SELECT id, received - on_hand AS n FROM product WHERE on_hand < received")}


@pytest.fixture
async def stocked(shop: Shop) -> Shop:
    """Each order has a product of its own name, in which its effects are counted."""
    await shop.add_stock(**{chr(letter): 100 for letter in range(ord("A"), ord("T"))})
    return shop


@pytest.fixture
async def unheard() -> AsyncIterator[Callable[[], list[str]]]:
    """The event loop's complaints about calls whose end nobody looked at."""
    loop, complaints = asyncio.get_running_loop(), list[str]()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: complaints.append(str(context["message"])))

    def heard() -> list[str]:
        gc.collect()
        return complaints

    yield heard
    heard()
    loop.set_exception_handler(before)


class Outside:
    """An effect outside: one call for each order, counted. Each order answers as it is told to, one answer for each call."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {i: list(a) if isinstance(a, list) else [a] for i, a in answers.items()}
        self.calls, self.at_once, self._now = Counter[str](), Counter[str](), Counter[str]()
        self.hold: dict[str, asyncio.Event] = {}

    def slow(self, order_id: str) -> asyncio.Event:
        """This order answers when the event is set."""
        return self.hold.setdefault(order_id, asyncio.Event())

    def busy(self, order_id: str) -> bool:
        """Whether a call for this order is not answered yet."""
        return self._now[order_id] > 0

    async def __call__(self, order: OrderUnderWay) -> Any:
        self.calls[order.id] += 1
        self._now[order.id] += 1
        self.at_once[order.id] = max(self.at_once[order.id], self._now[order.id])
        try:
            if order.id in self.hold:
                await self.hold[order.id].wait()
            answers = self.answers.get(order.id, [])
            answer = answers.pop(0) if answers else None
            if isinstance(answer, BaseException):
                raise answer
            return {"called": order.id}
        finally:
            self._now[order.id] -= 1


def busy() -> PaymentGatewayError:
    return PaymentGatewayError("busy", "try again", retryable=True)


# -- in the database ---------------------------------------------------------------------------------------------------


async def test_a_batch_is_one_transaction_with_its_journal(stocked: Shop) -> None:
    orders = await some(stocked, *"ABC")
    act, work = Effects(stocked, B=OutOfStock([Shortage("B", 1, 0)])), Work(ACT, orders)
    await run_in_database(work, act)
    assert act.asked == [["A", "B", "C"]]
    assert await act.made() == {"A": 1, "C": 1}
    assert (ids(work.done), ids(list(work.failed)), work.alone) == (["A", "C"], ["B"], [])
    assert work.summary() == {"done": 2, "failed": 1, "going_on_alone": 0}
    rows = {row.order_id: row for row in await stocked.rows("SELECT * FROM order_step")}
    assert {i: (row.status, row.undo_due, row.attempts) for i, row in rows.items()} == {
        "A": ("done", True, 1),
        "B": ("failed", False, 1),  # it did nothing, so there is nothing to undo
        "C": ("done", True, 1),
    }
    assert rows["A"].result == {"piece": "A"}
    assert rows["B"].error["shortages"] == [{"product_id": "B", "requested": 1, "available": 0}]
    assert orders[1].undo_plan() == ()


async def test_what_is_done_is_not_done_again(stocked: Shop) -> None:
    orders = await some(stocked, *"ABC")
    act = Effects(stocked)
    await run_in_database(Work(ACT, orders[:2]), act)
    again = Work(ACT, orders)
    await run_in_database(again, act)
    assert act.asked == [["A", "B"], ["C"]]
    assert ids(again.done) == ["A", "B", "C"]
    await run_in_database(again, act)
    assert len(act.asked) == 2
    assert await act.made() == {"A": 1, "B": 1, "C": 1}


async def test_an_exception_for_one_order_sends_all_alone_and_none_is_lost(stocked: Shop) -> None:
    orders = await some(stocked, *"ABC")
    act, batch = Effects(stocked, B=ZeroDivisionError("secret")), Work(ACT, orders)
    await run_in_database(batch, act)
    assert (batch.done, batch.failed, ids(batch.alone)) == ([], {}, ["A", "B", "C"])
    assert await act.made() == {}, "one transaction: all of it was rolled back"
    assert await statuses(stocked) == {}
    for order in batch.alone:
        alone = Work(ACT, [order])
        if order.id == "B":
            with pytest.raises(StepBroken) as broken:
                await run_in_database(alone, act)
            assert "ZeroDivisionError" in str(broken.value)
            assert "secret" not in str(broken.value.details())
        else:
            await run_in_database(alone, act)
            assert alone.summary() == {"piece": order.id}
    assert await act.made() == {"A": 1, "C": 1}
    assert await statuses(stocked) == {"A": "done", "B": "failed", "C": "done"}
    assert orders[1].undo_plan() == ()


async def test_an_order_that_the_action_forgot_does_not_take_the_others_with_it(stocked: Shop) -> None:
    orders = await some(stocked, *"ABC")

    async def forgetful(tx: Tx, batch: Sequence[OrderUnderWay]) -> Ends:
        return {order.id: {} for order in batch if order.id != "B"}

    batch = Work(ACT, orders)
    await run_in_database(batch, forgetful)
    assert ids(batch.alone) == ["A", "B", "C"]
    await run_in_database(Work(ACT, orders[:1]), forgetful)
    with pytest.raises(StepBroken):
        await run_in_database(Work(ACT, orders[1:2]), forgetful)
    assert await statuses(stocked) == {"A": "done", "B": "failed"}


async def test_trouble_with_the_database_is_everybodys_and_is_tried_again_together(stocked: Shop) -> None:
    orders = await some(stocked, *"ABC")
    act, work = Effects(stocked, B=gone()), Work(ACT, orders)
    with pytest.raises(OperationalError):
        await run_in_database(work, act)
    assert await act.made() == {}
    assert await statuses(stocked) == {}
    act.ends.clear()
    await run_in_database(work, act)
    assert await act.made() == {"A": 1, "B": 1, "C": 1}
    assert ids(work.done) == ["A", "B", "C"]


def failing_commits(monkeypatch: pytest.MonkeyPatch, *, arrives: bool, error: BaseException | None = None) -> None:
    """The next commit fails for the worker, whether it arrived at the database or not."""
    count = itertools.count()

    @asynccontextmanager
    async def unclear(*_: object) -> AsyncIterator[Tx]:
        fails = next(count) == 0
        async with transaction() as tx:
            yield tx
            if fails and not arrives:
                raise error or gone()
        if fails:
            raise error or gone()

    monkeypatch.setattr(shop.work, "transaction", unclear)


@pytest.mark.parametrize("arrives", [True, False])
@pytest.mark.parametrize("n", [1, 3])
async def test_an_unclear_commit_is_looked_up(stocked: Shop, monkeypatch: pytest.MonkeyPatch, arrives: bool, n: int) -> None:
    orders = await some(stocked, *"ABC"[:n])
    act, work = Effects(stocked), Work(ACT, orders)
    failing_commits(monkeypatch, arrives=arrives)
    with pytest.raises(OperationalError):
        await run_in_database(work, act)
    await run_in_database(work, act)
    assert await act.made() == dict.fromkeys("ABC"[:n], 1)
    assert set((await statuses(stocked)).values()) == {"done"}
    assert all(order.result("act") == {"piece": order.id} for order in orders)
    assert len(act.asked) == (1 if arrives else 2)


@pytest.mark.parametrize("arrives", [True, False])
async def test_what_timed_out_at_its_commit_can_be_undone(shop: Shop, monkeypatch: pytest.MonkeyPatch, arrives: bool) -> None:
    """The last attempt's result is unclear, so it counts as done: undoing finds out."""
    await shop.add_stock(P=5)
    (order,) = await shop.under_way(an_order("A", ("P", 2)))
    reserve = step(name=inventory.STEP)
    with monkeypatch.context() as patch:
        failing_commits(patch, arrives=arrives, error=TimeoutError())
        with pytest.raises(StepTimeout):
            await run_in_database(Work(reserve, [order]), inventory.reserve)
    assert await shop.stock("P") == (5, 2 if arrives else 0)
    await run_in_database(Work(reserve, [order], undo=True), inventory.release)
    assert await shop.stock("P") == (5, 0)
    assert order.undo_plan() == ()


async def test_a_batch_that_takes_too_long_did_nothing(stocked: Shop) -> None:
    orders = await some(stocked, "A", "B")
    never = asyncio.Event()

    async def slow(tx: Tx, batch: Sequence[OrderUnderWay]) -> Ends:
        await Effects(stocked)(tx, batch)
        await never.wait()
        return {}

    with pytest.raises(StepTimeout) as timeout:
        await run_in_database(Work(step(time_limit=0.2), orders), slow)
    assert timeout.value.retryable
    assert await Effects(stocked).made() == {}
    assert await statuses(stocked) == {}


async def test_a_lost_order_is_left_out_and_the_others_go_on(stocked: Shop) -> None:
    orders = await some(stocked, *"ABC")
    await stocked.let_leases_run_out()
    await stocked.claim("B")
    act, work = Effects(stocked), Work(ACT, orders)
    await run_in_database(work, act)
    assert (ids(work.done), work.failed, work.alone) == (["A", "C"], {}, [])
    assert orders[1].lost
    assert await act.made() == {"A": 1, "C": 1}
    alone = Work(ACT, [orders[1]])
    orders[1].lost = False
    with pytest.raises(LeaseLost):
        await run_in_database(alone, act)
    assert await act.made() == {"A": 1, "C": 1}


async def test_a_single_orders_no_is_raised_and_journalled(stocked: Shop) -> None:
    (order,) = await some(stocked, "A")
    work = Work(ACT, [order])
    with pytest.raises(OutOfStock):
        await run_in_database(work, Effects(stocked, A=OutOfStock([Shortage("A", 1, 0)])))
    assert await statuses(stocked) == {"A": "failed"}
    await run_in_database(work, Effects(stocked))
    row = await stocked.step("A", "act")
    assert (row.status, row.attempts, row.error, row.result) == ("done", 2, None, {"piece": "A"})


async def test_a_carrier_that_cannot_be_reached_lets_its_orders_leave_the_batch(stocked: Shop) -> None:
    """A retryable "no" of a database step: the order goes on alone, and if it is more than a fifth the batch tries again together."""
    orders = await some(stocked, *"ABCDEFGHIJ")
    act, work = Effects(stocked, C=CarrierUnavailable("down")), Work(SHIP, orders)
    await run_in_database(work, act)
    assert ids(work.alone) == ["C"]
    assert len(work.done) == 9
    act.ends.clear()
    await run_in_database(Work(SHIP, work.alone), act)
    assert await act.made() == dict.fromkeys("ABCDEFGHIJ", 1)


# -- outside -----------------------------------------------------------------------------------------------------------


async def test_the_intent_is_committed_before_the_call_and_the_result_after(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    seen: list[Any] = []

    async def look(order: OrderUnderWay) -> Ends:
        row = await shop.step(order.id, "act")  # another connection
        seen.append((row.status, row.undo_due, row.attempts))
        return {"x": 1}

    await run_outside(Work(ACT, [order]), look)
    assert seen == [("begun", True, 1)]
    row = await shop.step("A", "act")
    assert (row.status, row.undo_due, row.result, row.attempts) == ("done", True, {"x": 1}, 1)


async def test_each_order_of_a_batch_ends_by_itself(shop: Shop) -> None:
    orders = await some(shop, *"ABCDEFGHIJ")
    act = Outside(B=PaymentDeclined("card_declined", "no"), C=busy(), D=ZeroDivisionError("secret"))
    work = Work(ACT, orders)
    await run_outside(work, act)
    assert ids(work.done) == list("AEFGHIJ")
    assert {order.id: type(end) for order, end in work.failed.items()} == {"B": PaymentDeclined, "D": StepBroken}
    assert ids(work.alone) == ["C"]
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
    await run_outside(Work(ACT, work.alone), act)
    assert act.calls["C"] == 2
    row = await shop.step("C", "act")
    assert (row.status, row.attempts) == ("done", 2)


async def test_a_single_orders_failure_is_raised_and_tried_again(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    act, work = Outside(A=[busy(), PaymentDeclined("card_declined", "no")]), Work(ACT, [order])
    with pytest.raises(PaymentGatewayError):
        await run_outside(work, act)
    row = await shop.step("A", "act")
    assert (row.status, row.undo_due, row.attempts) == ("failed", True, 1)
    with pytest.raises(PaymentDeclined):
        await run_outside(work, act)
    await run_outside(Work(ACT, [order]), act)
    row = await shop.step("A", "act")
    assert (row.status, row.attempts, row.error) == ("done", 3, None)
    assert act.calls["A"] == 3


async def test_more_than_a_fifth_failing_is_the_batchs_trouble_and_a_second_run_does_only_those(shop: Shop) -> None:
    orders = await some(shop, *"ABCDEFGHIJ")
    act = Outside(B=busy(), C=busy(), D=busy(), E=PaymentDeclined("card_declined", "no"))
    work = Work(ACT, orders)
    with pytest.raises(BatchStruggling) as struggling:
        await run_outside(work, act)
    assert struggling.value.retryable
    assert ids(work.alone) == ["B", "C", "D"]
    await run_outside(work, act)
    assert {i: n for i, n in act.calls.items() if n > 1} == {"B": 2, "C": 2, "D": 2}
    assert ids(work.done) == list("AFGHIJBCD")
    assert (ids(list(work.failed)), work.alone) == (["E"], [])
    assert {row.order_id: row.attempts for row in await shop.rows("SELECT * FROM order_step")} == {
        **dict.fromkeys("AEFGHIJ", 1),
        **dict.fromkeys("BCD", 2),
    }


async def test_a_fifth_may_leave(shop: Shop) -> None:
    orders = await some(shop, *"ABCDEFGHIJ")
    work = Work(ACT, orders)
    await run_outside(work, Outside(B=busy(), C=busy()))
    assert ids(work.alone) == ["B", "C"]


@pytest.mark.parametrize("n", [2, 3, 4])
async def test_of_a_small_batch_one_may_leave(shop: Shop, n: int) -> None:
    work = Work(ACT, await some(shop, *"ABCD"[:n]))
    await run_outside(work, Outside(A=busy()))
    assert ids(work.alone) == ["A"]
    assert len(work.done) == n - 1


# -- slow ones ---------------------------------------------------------------------------------------------------------


async def test_a_slow_order_leaves_the_batch_and_its_call_is_not_made_twice(shop: Shop) -> None:
    orders = await some(shop, *"ABCDE")
    act, work = Outside(), Work(ACT, orders, patience=0.2)
    answer = act.slow("C")
    await run_outside(work, act)
    assert (ids(work.alone), ids(work.done)) == (["C"], list("ABDE"))
    assert await statuses(shop) == {**dict.fromkeys("ABDE", "done"), "C": "begun"}
    alone = asyncio.create_task(run_outside(Work(ACT, work.alone), act))

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
    act, work = Outside(C=PaymentDeclined("card_declined", "no")), Work(ACT, orders, patience=0.2)
    answer, transactions = act.slow("C"), itertools.count()

    @asynccontextmanager
    async def answered_meanwhile(*commit: Any) -> AsyncIterator[Tx]:
        async with transaction(*commit) as tx:
            yield tx
            if next(transactions) == 1:  # after the intent's
                answer.set()
                await until(answered, 10, "the answer")

    async def answered() -> bool:
        return not act.busy("C")

    monkeypatch.setattr("shop.work.transaction", answered_meanwhile)
    await run_outside(work, act)
    assert (ids(work.alone), ids(work.done)) == (["C"], list("ABDE"))
    with pytest.raises(PaymentDeclined):
        await run_outside(Work(ACT, work.alone), act)
    assert act.calls == dict.fromkeys("ABCDE", 1)
    assert await statuses(shop) == {**dict.fromkeys("ABDE", "done"), "C": "failed"}


async def test_a_slow_order_may_fail_too(shop: Shop) -> None:
    orders = await some(shop, *"AB")
    act = Outside(B=[PaymentDeclined("card_declined", "no")])
    work = Work(ACT, orders, patience=0.2)
    answer = act.slow("B")
    await run_outside(work, act)
    answer.set()
    with pytest.raises(PaymentDeclined):
        await run_outside(Work(ACT, work.alone), act)
    assert act.calls == {"A": 1, "B": 1}
    assert await statuses(shop) == {"A": "done", "B": "failed"}


async def test_a_crowd_of_slow_ones_is_waited_for(shop: Shop) -> None:
    """If most are slow it is no matter of single orders."""
    orders = await some(shop, *"ABCDE")
    act, work = Outside(), Work(ACT, orders, patience=0.1)
    answers = [act.slow(i) for i in "ABC"]
    running = asyncio.create_task(run_outside(work, act))
    done, _ = await asyncio.wait([running], timeout=0.5)
    assert not done
    for answer in answers:
        answer.set()
    await running
    assert sorted(ids(work.done)) == list("ABCDE")
    assert act.calls == dict.fromkeys("ABCDE", 1)


async def test_a_single_order_is_waited_for_up_to_its_time_limit(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    act = Outside()
    act.slow("A")
    work = Work(step(time_limit=0.2), [order], patience=0.01)
    with pytest.raises(StepTimeout) as timeout:
        await run_outside(work, act)
    assert timeout.value.retryable
    row = await shop.step("A", "act")
    assert (row.status, row.undo_due) == ("failed", True), "what timed out may have been done"
    act.slow("A").set()
    await run_outside(work, act)
    assert act.at_once == {"A": 1}


async def test_trouble_with_the_database_does_not_make_a_slow_call_twice_at_once(shop: Shop, unheard: Any) -> None:
    """While one order is still at the gateway another one's notes cannot be written: the batch is tried again. A second call beside the
    first would charge twice at a gateway that forgets keys."""
    orders = await some(shop, *"ABCDEFGHIJ")
    act, work = Outside(B=gone()), Work(ACT, orders, patience=0.2)
    answer = act.slow("C")
    with pytest.raises(OperationalError):
        await run_outside(work, act)
    second = asyncio.create_task(run_outside(work, act))
    try:
        await asyncio.wait([second], timeout=1)
        assert act.at_once["C"] == 1
    finally:
        answer.set()
        await asyncio.wait([second], timeout=20)
    for order in work.alone:
        await run_outside(Work(ACT, [order]), act)
    assert set((await statuses(shop)).values()) == {"done"}


async def test_trouble_with_the_database_leaves_no_call_unheard(shop: Shop, unheard: Callable[[], list[str]]) -> None:
    """What the gateway has answered meanwhile is not thrown away."""
    orders = await some(shop, *"ABCD")
    work = Work(ACT, orders)

    async def run() -> None:
        with pytest.raises(OperationalError):
            await run_outside(work, Outside(A=gone(), B=gone(), C=PaymentDeclined("card_declined", "no")))

    await run()
    assert unheard() == []


async def test_whoever_is_cancelled_takes_its_calls_with_it(shop: Shop) -> None:
    orders = await some(shop, "A", "B")
    act = Outside()
    act.slow("A")
    act.slow("B")
    running = asyncio.create_task(run_outside(Work(ACT, orders), act))

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
    act, work = Outside(), Work(ACT, orders)
    await run_outside(work, act)
    assert act.calls == {"B": 1}
    assert (ids(work.done), work.failed, work.alone) == (["B"], {}, [])
    orders[0].lost = False
    with pytest.raises(LeaseLost):
        await run_outside(Work(ACT, orders[:1]), act)
    assert act.calls == {"B": 1}


async def test_an_order_that_is_lost_during_its_call_records_nothing(shop: Shop) -> None:
    orders = await some(shop, *"AB")
    before: list[Any] = []

    async def taken_meanwhile(order: OrderUnderWay) -> Ends:
        if order.id == "A":
            await shop.let_leases_run_out()
            assert ids(await shop.claim("A")) == ["A"]
            before.append(await shop.step("A", "act"))
        return {"x": 1}

    work = Work(ACT, orders)
    await run_outside(work, taken_meanwhile)
    assert await shop.step("A", "act") == before[0]
    assert (ids(work.done), orders[0].lost) == (["B"], True)


# -- undoing -----------------------------------------------------------------------------------------------------------


async def test_an_undo_in_the_database_records_its_results(shop: Shop) -> None:
    await shop.add_stock(P=10)
    orders = await shop.under_way(*(an_order(i, ("P", 2)) for i in "ABC"))
    reserve = step(name=inventory.STEP)
    await run_in_database(Work(reserve, orders[:2]), inventory.reserve)
    assert await shop.stock("P") == (10, 4)
    for _ in range(2):
        work = Work(reserve, orders, undo=True)
        await run_in_database(work, inventory.release)
        assert await shop.stock("P") == (10, 0)
        assert sorted(ids(work.done)) == list("ABC"), "what never began needs no undoing"
    rows = {row.order_id: row for row in await shop.rows("SELECT * FROM order_step")}
    assert sorted(rows) == ["A", "B"]
    for row in rows.values():
        assert (row.status, row.undo_status, row.undo_due, row.undo_attempts) == ("done", "done", False, 1)
        assert row.undo_result["released_items"] == {"P": 2}
    assert [order.undo_plan() for order in orders] == [(), (), ()]


async def test_an_undo_outside_records_its_results(shop: Shop) -> None:
    orders = await some(shop, *"ABCDEF")
    await run_outside(Work(ACT, orders), Outside())
    refused = RefundRefused("no", "never", payment_id="p", charged=Decimal("10.00"), refunded=Decimal(0), currency="USD", refusals=1)
    act, work = Outside(B=refused, C=busy()), Work(ACT, orders, undo=True)
    await run_outside(work, act)
    assert (ids(work.done), ids(list(work.failed)), ids(work.alone)) == (list("ADEF"), ["B"], ["C"])
    rows = {row.order_id: row for row in await shop.rows("SELECT * FROM order_step")}
    assert {i: (row.undo_status, row.undo_due) for i, row in rows.items()} == {
        **dict.fromkeys("ADEF", ("done", False)),
        "B": ("failed", True),
        "C": ("begun", True),
    }
    assert rows["B"].undo_error["amount_at_risk"] == "10.00"
    assert rows["A"].undo_result == {"called": "A"}
    assert {row.status for row in rows.values()} == {"done"}, "that it was done is not forgotten"
    alone = Work(ACT, work.alone, undo=True)
    await run_outside(alone, act)
    assert alone.summary() == {"called": "C"}
    with pytest.raises(RefundRefused):
        await run_outside(Work(ACT, [orders[1]], undo=True), Outside(B=refused))
    assert (await shop.step("B", "act")).undo_attempts == 2
    assert orders[1].undo_plan() == ("act",)
    await run_outside(Work(ACT, orders, undo=True), act)
    assert act.calls == {**dict.fromkeys("ADEF", 1), "B": 2, "C": 2}


async def test_an_undo_that_breaks_stays_due(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    await run_outside(Work(ACT, [order]), Outside())

    async def breaks(tx: Tx, orders: Sequence[OrderUnderWay]) -> Ends:
        raise ZeroDivisionError

    with pytest.raises(StepBroken):
        await run_in_database(Work(ACT, [order], undo=True), breaks)
    row = await shop.step("A", "act")
    assert (row.undo_status, row.undo_due, row.undo_error["code"]) == ("failed", True, "step_broken")


async def test_what_only_began_is_undone_too(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    with pytest.raises(PaymentGatewayError):
        await run_outside(Work(ACT, [order]), Outside(A=busy()))
    act = Outside()
    await run_outside(Work(ACT, [order], undo=True), act)
    assert act.calls == {"A": 1}
    assert order.undo_plan() == ()


async def test_a_slow_undo_leaves_the_batch_and_is_not_made_twice(shop: Shop) -> None:
    orders = await some(shop, *"AB")
    await run_outside(Work(ACT, orders), Outside())
    act, work = Outside(), Work(ACT, orders, undo=True, patience=0.2)
    answer = act.slow("B")
    await run_outside(work, act)
    assert ids(work.alone) == ["B"]
    answer.set()
    await run_outside(Work(ACT, work.alone, undo=True), act)
    assert act.calls == {"A": 1, "B": 1}
    assert {row.undo_status for row in await shop.rows("SELECT * FROM order_step")} == {"done"}


# -- steps that change nothing -----------------------------------------------------------------------------------------


async def read_ok(tx: Tx, orders: Sequence[OrderUnderWay]) -> Ends:
    return {order.id: {"read": order.id} for order in orders}


async def write_ok(tx: Tx, orders: Sequence[OrderUnderWay]) -> Ends:
    return {order.id: {"wrote": order.id} for order in orders}


Runner = Callable[[list[OrderUnderWay]], Awaitable[None]]


async def read_in_database(orders: list[OrderUnderWay]) -> None:
    await run_in_database(Work(READ, orders), read_ok)


async def read_outside(orders: list[OrderUnderWay]) -> None:
    async def act(order: OrderUnderWay) -> Ends:
        return {"read": order.id}

    await run_outside(Work(READ, orders), act)


@pytest.mark.parametrize("read", [read_in_database, read_outside])
@pytest.mark.parametrize("n", [1, 3])
async def test_what_was_read_is_in_the_journal_with_what_comes_next(shop: Shop, read: Runner, n: int) -> None:
    orders = await some(shop, *"ABC"[:n])
    await read(orders)
    assert all(order.result("read") == {"read": order.id} for order in orders)
    assert [order.undo_plan() for order in orders] == [()] * n
    await run_in_database(Work(SHIP, orders), write_ok)
    assert await statuses(shop, "read") == dict.fromkeys("ABC"[:n], "done")
    rows = await shop.rows("SELECT step FROM order_step WHERE order_id = 'A' ORDER BY number")
    assert [row.step for row in rows] == ["read", "ship"]


@pytest.mark.parametrize("read", [read_in_database, read_outside])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("outside", [False, True])
async def test_what_was_read_survives_trouble_in_the_next_step(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, read: Runner, n: int, outside: bool
) -> None:
    """The confirmation that was written must be in the mail, though the database was away for a moment when the order was shipped."""
    orders = await some(shop, *"ABC"[:n])
    await read(orders)
    ship = Work(SHIP, orders)
    run: Callable[[], Awaitable[None]] = (lambda: run_outside(ship, Outside())) if outside else (lambda: run_in_database(ship, write_ok))
    with monkeypatch.context() as patch:
        failing_commits(patch, arrives=False)
        with pytest.raises(OperationalError):
            await run()
    await run()
    assert all(order.done("ship") for order in orders)
    assert [order.result("read") for order in orders] == [{"read": order.id} for order in orders]
    assert await statuses(shop, "read") == dict.fromkeys("ABC"[:n], "done")


@pytest.mark.parametrize("arrives", [True, False])
async def test_what_was_read_survives_an_unclear_commit(shop: Shop, monkeypatch: pytest.MonkeyPatch, arrives: bool) -> None:
    (order,) = await some(shop, "A")
    await read_outside([order])
    ship = Work(SHIP, [order])
    with monkeypatch.context() as patch:
        failing_commits(patch, arrives=arrives)
        with pytest.raises(OperationalError):
            await run_in_database(ship, write_ok)
    await run_in_database(ship, write_ok)
    assert order.result("read") == {"read": "A"}
    assert (await shop.step("A", "read")).result == {"read": "A"}


async def test_attempts_at_reading_are_counted_too(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    act, work = Outside(A=[busy(), busy()]), Work(READ, [order])
    for _ in range(2):
        with pytest.raises(PaymentGatewayError):
            await run_outside(work, act)
    await run_outside(work, act)
    await run_in_database(Work(SHIP, [order]), write_ok)
    row = await shop.step("A", "read")
    assert (row.status, row.attempts) == ("done", 3)


async def test_a_reading_that_left_its_batch_does_not_break_the_next_step(shop: Shop) -> None:
    """It failed in the batch, in a way that may pass, and succeeded alone: two ends of one step, until they are written."""
    orders = await some(shop, *"AB")

    async def busy_for_a(tx: Tx, batch: Sequence[OrderUnderWay]) -> Ends:
        return {order.id: CarrierUnavailable("down") if order.id == "A" and len(batch) > 1 else {"read": order.id} for order in batch}

    batch = Work(READ, orders)
    await run_in_database(batch, busy_for_a)
    assert ids(batch.alone) == ["A"]
    await run_in_database(Work(READ, batch.alone), busy_for_a)
    await run_in_database(Work(SHIP, orders), write_ok)
    assert await statuses(shop, "ship") == {"A": "done", "B": "done"}
    assert await statuses(shop, "read") == {"A": "done", "B": "done"}


async def test_a_reading_that_failed_is_journalled_when_the_order_ends(shop: Shop) -> None:
    (order,) = await some(shop, "A")
    work = Work(READ, [order])
    with pytest.raises(StepBroken):
        await run_outside(work, Outside(A=ZeroDivisionError()))
    order.fail("read", StepBroken("read", ZeroDivisionError()))
    assert await finish([order], Saga(READ, SHIP)) == {"A": "compensated"}
    assert await statuses(shop, "read") == {"A": "failed"}


# -- anything ----------------------------------------------------------------------------------------------------------

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

    async def through(batch: Sequence[OrderUnderWay]) -> None:
        work = Work(ACT, batch)
        for _ in range(60):
            try:
                await run_outside(work, act)
                break
            except (OperationalError, BatchStruggling):
                continue
            except OrderError as error:
                if not error.retryable:
                    ends[batch[0].id] = "failed"
                    return
        else:
            pytest.fail("no end")
        ends.update({order.id: "done" for order in work.done})
        ends.update({order.id: "failed" for order in work.failed})
        assert {*ids(work.done), *ids(list(work.failed)), *ids(work.alone)} == set(ids(batch))
        for order in work.alone:
            await through([order])

    await through(orders)
    assert set(ends) == set(plans)
    assert [ends[i] for i in plans] == ["done" if word == "ok" else "failed" for word in clear]
    assert all(act.calls[i] > len(first) for i, first in zip(plans, passing, strict=True))
    assert set(act.at_once.values()) == {1}
    journal = dict(await shop.rows("SELECT order_id, status FROM order_step WHERE order_id LIKE :run", run=f"{run}-%"))
    assert journal == ends
