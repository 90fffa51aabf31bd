"""Charging once and giving back what was charged,
whatever breaks: read from the gateway's own ledger, never from our answers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from saga import journal
from saga.database import transaction
from saga.definition import Kind, Step
from saga.errors import LeaseLost, StepError
from saga.execution import StepExecution
from saga.external_action import run_external
from shop.orders import names
from shop.orders.order import OrderInstance
from shop.payments.charge import (
    MOST_UNCLEAR_REFUNDS,
    STEP,
    PaymentResult,
    RefundResult,
    charge,
    refund,
)
from shop.payments.errors import (
    PaymentDeclined,
    PaymentGatewayError,
    PaymentGatewayTimeout,
    PaymentMismatch,
    PaymentRefused,
    RefundRefused,
)
from shop.payments.gateway import PaymentStatus
from shop.payments.moved import money_moved
from shop.payments.sandbox.behaviour import Behaviour
from shop.payments.sandbox.ledger import Ledger
from tests.integration.domain import Shop, an_order
from tests.journalled import begin, begin_undo, end, end_undo, write
from tests.sandbox_in_process import InProcessGateway
from tests.waiting import until

pytest_plugins = ["tests.integration.domain_fixtures"]

CREATED, SUCCEEDED, DECLINED, CANCELLED = (
    PaymentStatus.CREATED,
    PaymentStatus.SUCCEEDED,
    PaymentStatus.DECLINED,
    PaymentStatus.CANCELLED,
)
TOTAL = Decimal("10.00")
UNITS = 1000


class Crash(Exception):
    """The process dies here."""


class Watched:
    """The gateway, with every request that reached it;
    and the process may die right after one was answered."""

    def __init__(self, ledger: Ledger) -> None:
        self.calls = list[str]()
        self.dies_after: str | None = None
        self._inner = InProcessGateway(ledger)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def called(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            answer = await method(*args, **kwargs)
            if self.dies_after == name:
                raise Crash
            return answer

        return called


class Till:
    """A gateway on a ledger of its own, and workers that charge orders on it."""

    def __init__(self, shop: Shop, **behaviour: Any) -> None:
        self.shop, self.ledger = shop, Ledger(None, Behaviour(**behaviour))
        self.gateway = Watched(self.ledger)

    # -- what the ledger says

    def money(self) -> tuple[int, int]:
        """(charged, refunded) of everything, in cents."""
        totals = self.ledger.totals()
        return sum(t.charged for t in totals), sum(t.refunded for t in totals)

    def payments(self, order_id: str = "A") -> list[PaymentStatus]:
        return [payment.status for payment in self.ledger.find(order_id)]

    # -- what a worker does

    async def order(self, card: str = "1234", **fields: Any) -> OrderInstance:
        (order,) = await self.shop.instance(an_order("A", card=card, **fields))
        return order

    async def charge(self, order: OrderInstance) -> PaymentResult:
        """One attempt: intent, act, result."""
        await begin(STEP, [order])
        try:
            result = await charge(order, self.gateway)
        except StepError as error:
            await write(STEP, [order], "failed", error=error.details(), undo_due=True, again=False)
            raise
        await end(STEP, [order], **result.model_dump(mode="json"))
        return result

    async def refund(self, order: OrderInstance) -> RefundResult:
        await begin_undo(STEP, [order])
        try:
            result = await refund(order, self.gateway)
        except StepError as error:
            await end_undo(STEP, [order], None, error.details())
            raise
        await end_undo(STEP, [order], result.model_dump(mode="json"))
        return result

    async def until_clear(
        self, act: Callable[[OrderInstance], Awaitable[Any]], order: OrderInstance, most: int = 50
    ) -> Any:
        """Again and again while trying again can help."""
        for _ in range(most):
            try:
                return await act(order)
            except (PaymentGatewayError, PaymentGatewayTimeout) as error:
                if not error.retryable:
                    raise
        pytest.fail(f"not clear after {most} attempts")

    async def next_worker(self) -> OrderInstance:
        """The order, taken over by another worker after this one died."""
        self.gateway.dies_after = None
        await self.shop.expire_leases()
        (order,) = await self.shop.claim("A")
        return order


@pytest.fixture
async def till(shop: Shop) -> AsyncIterator[Till]:
    till = Till(shop)
    yield till
    till.ledger.close()


@pytest.fixture
async def forgetful(shop: Shop) -> AsyncIterator[Till]:
    """A gateway that ignores idempotency keys."""
    till = Till(shop, forget_keys=True)
    yield till
    till.ledger.close()


# -- charging


@pytest.mark.parametrize("card", ["1234", "4242", "0259"])
async def test_a_good_card_is_charged(till: Till, card: str) -> None:
    order = await till.order(card)
    result = await till.charge(order)
    assert till.money() == (UNITS, 0)
    (payment,) = till.ledger.find("A")
    assert (result.payment_status, result.payment_id, result.transaction_id) == (
        "charged",
        payment.id,
        payment.charge_id,
    )
    assert (result.amount_charged, result.currency, result.payment_method) == (TOTAL, "USD", "credit_card")
    assert result.gateway_fee == Decimal(payment.fee) / 100
    assert result.charged_at == payment.charged_at
    assert (await till.shop.step("A", STEP)).notes == {"payment_id": payment.id}
    assert till.gateway.calls == ["create", "confirm"], "nothing is asked that need not be"
    assert money_moved(order) == (TOTAL, 0, 0)


async def test_the_payments_id_is_journalled_before_it_is_confirmed(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await till.order()
    seen: list[Any] = []

    class Watching:
        def __getattr__(self, name: str) -> Any:
            return getattr(till.gateway, name)

        async def confirm(self, payment_id: str, *, key: str) -> Any:
            seen.append((await till.shop.step("A", STEP)).notes)
            return await till.gateway.confirm(payment_id, key=key)

    await begin(STEP, [order])
    result = await charge(order, Watching())
    assert seen == [{"payment_id": result.payment_id}]


@pytest.mark.parametrize(("card", "code"), [("0000", "card_declined"), ("0002", "insufficient_funds")])
async def test_a_declined_card_is_not_charged(till: Till, card: str, code: str) -> None:
    order = await till.order(card)
    for _ in range(2):
        with pytest.raises(PaymentDeclined) as declined:
            await till.charge(order)
        assert (declined.value.error_code, declined.value.retryable) == (code, False)
        assert declined.value.error_message
    assert till.money() == (0, 0)
    assert till.payments() == [DECLINED]
    assert declined.value.details()["error_code"] == code
    assert (await till.refund(order)).compensation_status == "no_payment_to_refund"
    assert till.money() == (0, 0)
    assert money_moved(order) == (0, 0, 0)


async def test_a_retryable_error_is_cured_by_trying_again(till: Till) -> None:
    order = await till.order("0119")
    for _ in range(2):
        with pytest.raises(PaymentGatewayError) as error:
            await till.charge(order)
        assert error.value.retryable
        assert till.money() == (0, 0)
    result = await till.charge(order)
    assert result.amount_charged == TOTAL
    assert till.money() == (UNITS, 0)
    assert till.payments() == [SUCCEEDED], "one payment for all attempts"


@pytest.mark.parametrize("forget", [False, True])
async def test_a_charge_whose_answer_is_lost_is_made_once(till: Till, forget: bool) -> None:
    till.ledger.behaviour = Behaviour(forget_keys=forget)
    order = await till.order("0341")
    with pytest.raises(PaymentGatewayTimeout) as timeout:
        await till.charge(order)
    assert timeout.value.retryable
    assert till.money() == (UNITS, 0), "it was charged all the same"
    assert order.undo_plan() == (STEP,), "an unclear result counts as done"
    result = await till.charge(order)
    assert result.amount_charged == TOTAL
    assert till.money() == (UNITS, 0)
    assert till.payments() == [SUCCEEDED]
    assert till.gateway.calls[-1] == "get", "looked up, not sent again"


@pytest.mark.parametrize("forget", [False, True])
async def test_charging_again_and_again_charges_once(till: Till, forget: bool) -> None:
    till.ledger.behaviour = Behaviour(forget_keys=forget)
    order = await till.order()
    results = [await till.charge(order) for _ in range(5)]
    assert len({result.payment_id for result in results}) == 1
    assert till.money() == (UNITS, 0)
    assert till.payments() == [SUCCEEDED]


@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize("card", ["1234", "0341", "0119"])
@pytest.mark.parametrize("dies_after", ["create", "confirm", "get", "find"])
async def test_a_worker_that_dies_and_the_next_one_charge_once(
    till: Till, dies_after: str, card: str, forget: bool
) -> None:
    """Wherever it dies: the next worker has nothing but the journal and the gateway."""
    till.ledger.behaviour = Behaviour(forget_keys=forget)
    order = await till.order(card)
    for _ in range(3):
        till.gateway.dies_after = dies_after
        try:
            await till.until_clear(till.charge, order)
        except Crash:
            order = await till.next_worker()
    till.gateway.dies_after = None
    result = await till.until_clear(till.charge, order)
    assert till.money() == (UNITS, 0)
    assert till.payments().count(SUCCEEDED) == 1
    assert result.payment_id == next(p.id for p in till.ledger.find("A") if p.status is SUCCEEDED)
    again = await till.refund(await till.next_worker())
    assert again.refunded_amount == TOTAL
    assert till.money() == (UNITS, UNITS)


@pytest.mark.parametrize("charged", [False, True])
async def test_a_lost_payment_id_is_found_again_by_the_order(
    forgetful: Till, charged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The payment exists, and the crash came before its id was written down."""
    order = await forgetful.order()
    forgetful.gateway.dies_after = "create"
    with pytest.raises(Crash):
        await forgetful.charge(order)
    (lost,) = forgetful.ledger.find("A")
    if charged:
        forgetful.ledger.confirm(lost.id, key=None)
    assert (await forgetful.shop.step("A", STEP)).notes == {}
    order = await forgetful.next_worker()
    result = await forgetful.charge(order)
    assert result.payment_id == lost.id
    assert forgetful.money() == (UNITS, 0)
    assert forgetful.payments() == [SUCCEEDED]


async def test_of_two_payments_the_charged_one_is_taken(forgetful: Till) -> None:
    order = await forgetful.order()
    await begin(STEP, [order])
    ids = [(await made_by_us(forgetful)).id for _ in range(3)]
    forgetful.ledger.confirm(ids[1], key=None)
    result = await forgetful.charge(order)
    assert result.payment_id == ids[1]
    assert forgetful.money() == (UNITS, 0)


async def test_a_note_that_could_not_be_written_charges_nothing(
    till: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the payment's id in the journal no money moves."""
    order = await till.order()

    async def fails(*args: Any, **facts: Any) -> None:
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr("shop.payments.charge.checkpoint", fails)
        await begin(STEP, [order])
        with pytest.raises(ConnectionError):
            await charge(order, till.gateway)
    assert till.money() == (0, 0)
    assert (await till.charge(order)).amount_charged == TOTAL
    assert till.money() == (UNITS, 0)
    assert till.payments() == [SUCCEEDED]


async def test_a_worker_who_lost_the_order_does_not_charge(till: Till) -> None:
    old = await till.order()
    await begin(STEP, [old])
    new = await till.next_worker()
    with pytest.raises(LeaseLost):
        await charge(old, till.gateway)
    assert till.money() == (0, 0)
    await till.charge(new)
    assert till.money() == (UNITS, 0)


@pytest.mark.parametrize("forget", [False, True])
@pytest.mark.parametrize("next_one", ["charges", "refunds"])
async def test_a_worker_that_pauses_before_it_confirms(till: Till, next_one: str, forget: bool) -> None:
    """The next worker knows its payment, and charges or cancels it."""
    till.ledger.behaviour = Behaviour(forget_keys=forget)
    paused, resume = asyncio.Event(), asyncio.Event()

    class Pausing:
        def __getattr__(self, name: str) -> Any:
            return getattr(till.gateway, name)

        async def confirm(self, payment_id: str, *, key: str) -> Any:
            paused.set()
            await resume.wait()
            return await till.gateway.confirm(payment_id, key=key)

    old = await till.order()
    await begin(STEP, [old])
    sleeping = asyncio.create_task(charge(old, Pausing()))
    await asyncio.wait_for(paused.wait(), 10)
    new = await till.next_worker()
    if next_one == "charges":
        await till.charge(new)
    else:
        assert (await till.refund(new)).compensation_status == "cancelled"
    resume.set()
    (late,) = await asyncio.gather(sleeping, return_exceptions=True)
    assert isinstance(late, PaymentResult if next_one == "charges" else PaymentDeclined)
    assert till.money() == (UNITS if next_one == "charges" else 0, 0)
    assert len(till.payments()) == 1


@pytest.mark.parametrize("forget", [False, True], ids=["keeps keys", "forgets keys"])
async def test_a_slow_order_is_charged_once_though_its_batch_is_tried_again(till: Till, forget: bool) -> None:
    """One order is still at the gateway, another one's worker has lost the database for a moment:
    the batch is run again."""
    till.ledger.behaviour = Behaviour(forget_keys=forget)
    arrives, created = asyncio.Event(), Counter[str]()

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(till.gateway, name)

        async def create(self, *, order_id: str, **request: Any) -> Any:
            created[order_id] += 1
            if order_id == "B" and created["B"] == 1:
                raise OperationalError("COMMIT", {}, Exception("server closed the connection"))
            if order_id == "C" and created["C"] == 1:
                await arrives.wait()
            return await till.gateway.create(order_id=order_id, **request)

    called, answered = Counter[str](), Counter[str]()

    async def act(order: OrderInstance) -> PaymentResult:
        called[order.id] += 1
        try:
            return await charge(order, Slow())
        finally:
            answered[order.id] += 1

    async def all_answered() -> bool:
        return called == answered

    async def never(work: StepExecution) -> None:
        """Tests run the work themselves."""

    orders = await till.shop.instance(*(an_order(i) for i in "ABCDEFGHIJ"))
    step = Step(never, never, Kind.COMPENSATABLE, 30, 0, name=STEP)
    work = StepExecution(step, orders, straggler_timeout=0.2)
    with pytest.raises(OperationalError):
        await run_external(work, act)
    running = asyncio.create_task(run_external(work, act))
    await asyncio.wait([running], timeout=1)
    arrives.set()
    await running
    for order in work.detached:
        await run_external(StepExecution(step, [order]), act)
    await until(all_answered, 10, "every call to have ended")
    assert {i: till.payments(i).count(SUCCEEDED) for i in "ABCDEFGHIJ"} == dict.fromkeys("ABCDEFGHIJ", 1)
    assert till.money() == (10 * UNITS, 0)


@pytest.mark.parametrize("missing", ["payment_info", "shipping_info"])
async def test_nothing_reaches_the_gateway_of_an_order_that_lacks(till: Till, missing: str) -> None:
    order = await till.order(**{missing: None})
    for _ in range(2):
        with pytest.raises(PaymentRefused, match=missing) as refused:
            await till.charge(order)
        assert not refused.value.retryable
    assert till.gateway.calls == []
    assert till.payments() == []
    assert till.money() == (0, 0)
    assert (await till.refund(order)).compensation_status == "no_payment_to_refund"


@pytest.mark.parametrize(
    ("currency", "total", "units"),
    [("USD", "1059.97", 105_997), ("JPY", "1500", 1500), ("KWD", "1.234", 1234), ("EUR", "0.01", 1)],
)
async def test_the_total_is_charged_in_its_currency(
    till: Till, currency: str, total: str, units: int
) -> None:
    order = await till.order(total_amount=total, currency=currency)
    result = await till.charge(order)
    assert (result.amount_charged, result.currency) == (Decimal(total), currency)
    assert [(t.currency, t.charged) for t in till.ledger.totals()] == [(currency, units)]
    assert (await till.refund(order)).refunded_amount == Decimal(total)
    assert [(t.currency, t.refunded) for t in till.ledger.totals()] == [(currency, units)]


@pytest.mark.parametrize("order_id", ["a b", "字", "a" * 200, "../x", "'; --", "🙂"])
async def test_any_order_id_can_be_charged_and_refunded(till: Till, order_id: str) -> None:
    (order,) = await till.shop.instance(an_order(order_id, card="0341"))
    await till.until_clear(till.charge, order)
    assert till.money() == (UNITS, 0)
    await till.until_clear(till.refund, order)
    assert till.money() == (UNITS, UNITS)
    assert till.payments(order_id) == [SUCCEEDED]


async def test_orders_do_not_get_each_others_payments(till: Till) -> None:
    a, b = await till.shop.instance(an_order("A"), an_order("A-confirm"))
    first, second = await till.charge(a), await till.charge(b)
    assert first.payment_id != second.payment_id
    await till.refund(a)
    assert [p.refunded for p in till.ledger.find("A")] == [UNITS]
    assert [p.refunded for p in till.ledger.find("A-confirm")] == [0]


# -- refunding


async def made_by_us(till: Till, card: str = "1234") -> Any:
    """An unconfirmed payment for the order."""
    return till.ledger.create(
        order_id="A",
        amount=UNITS,
        currency="USD",
        method="credit_card",
        card_last4=card,
        token=None,
        key=None,
    )


async def test_what_was_charged_is_refunded_once(till: Till) -> None:
    order = await till.order()
    charged = await till.charge(order)
    first = await till.refund(order)
    assert till.money() == (UNITS, UNITS)
    assert (first.compensation_status, first.refunded_amount, first.amount_charged) == (
        "success",
        TOTAL,
        TOTAL,
    )
    assert first.original_payment_id == charged.payment_id
    (payment,) = till.ledger.find("A")
    assert first.refund_id == payment.refunds[0].id
    assert first.refund_timestamp == payment.refunds[0].created_at
    for _ in range(3):
        again = await till.refund(order)
        assert (again.compensation_status, again.refund_id, again.refunded_amount) == (
            "success",
            first.refund_id,
            TOTAL,
        )
    assert till.money() == (UNITS, UNITS)
    assert money_moved(order) == (TOTAL, TOTAL, 0)


async def test_what_was_only_created_is_cancelled_and_can_never_be_charged(till: Till) -> None:
    order = await till.order()
    till.gateway.dies_after = "create"
    with pytest.raises(Crash):
        await till.charge(order)
    order = await till.next_worker()
    result = await till.refund(order)
    assert (result.compensation_status, result.refunded_amount, result.amount_charged) == ("cancelled", 0, 0)
    assert till.payments() == [CANCELLED]
    (payment,) = till.ledger.find("A")
    with pytest.raises(PaymentDeclined):
        await till.gateway.confirm(payment.id, key="late")
    assert till.money() == (0, 0)
    assert (await till.refund(order)).compensation_status == "cancelled"
    assert money_moved(order) == (0, 0, 0)


async def test_without_a_payment_there_is_nothing_to_refund(till: Till) -> None:
    order = await till.order()
    await begin(STEP, [order])
    result = await till.refund(order)
    assert (result.compensation_status, result.refunded_amount, result.refund_id) == (
        "no_payment_to_refund",
        0,
        None,
    )
    assert till.money() == (0, 0)
    assert money_moved(order) == (0, 0, 0)


async def test_a_charge_with_a_lost_answer_is_refunded(till: Till) -> None:
    """The journal has neither a result nor an id: the gateway has."""
    order = await till.order("0341")
    with pytest.raises(PaymentGatewayTimeout):
        await till.charge(order)
    await till.shop.rows("UPDATE order_step SET notes = '{}'")
    order = await till.next_worker()
    result = await till.refund(order)
    assert (result.compensation_status, result.refunded_amount, result.amount_charged) == (
        "success",
        TOTAL,
        TOTAL,
    )
    assert till.money() == (UNITS, UNITS)
    assert money_moved(order) == (TOTAL, TOTAL, 0)


async def test_of_what_was_refunded_by_hand_only_the_rest_goes_back(till: Till) -> None:
    order = await till.order()
    charged = await till.charge(order)
    till.ledger.refund(charged.payment_id, amount=300, currency="USD", key=None)
    result = await till.refund(order)
    assert till.money() == (UNITS, UNITS), "not a cent more than was charged"
    assert (result.compensation_status, result.amount_charged, result.refunded_amount) == (
        "success",
        TOTAL,
        TOTAL,
    )
    assert [r.amount for r in till.ledger.find("A")[0].refunds] == [300, 700]
    assert money_moved(order) == (TOTAL, TOTAL, 0)


async def test_a_cancellation_that_comes_too_late_refunds(till: Till) -> None:
    """Between looking and cancelling the charge went through."""
    order = await till.order()
    await begin(STEP, [order])
    payment = await made_by_us(till)

    class Late:
        def __getattr__(self, name: str) -> Any:
            return getattr(till.gateway, name)

        async def cancel(self, payment_id: str, *, key: str) -> Any:
            till.ledger.confirm(payment_id, key=None)
            return await till.gateway.cancel(payment_id, key=key)

    result = await refund(order, Late())
    assert (result.compensation_status, result.refunded_amount, result.original_payment_id) == (
        "success",
        TOTAL,
        payment.id,
    )
    assert till.money() == (UNITS, UNITS)


@pytest.mark.parametrize(
    "statuses", [(CREATED, SUCCEEDED), (SUCCEEDED, CREATED), (DECLINED, CREATED, SUCCEEDED)]
)
async def test_all_payments_of_the_order_are_undone(till: Till, statuses: tuple[PaymentStatus, ...]) -> None:
    """There can be more than one only if somebody charged by hand or the gateway forgot; none may be left."""
    order = await till.order()
    await begin(STEP, [order])
    for status in statuses:
        payment = await made_by_us(till, "0000" if status is DECLINED else "1234")
        if status is SUCCEEDED:
            till.ledger.confirm(payment.id, key=None)
        elif status is DECLINED:
            with pytest.raises(Exception, match="declined"):
                till.ledger.confirm(payment.id, key=None)
    charged = statuses.count(SUCCEEDED) * UNITS
    assert till.money() == (charged, 0)
    result = await till.refund(order)
    assert till.money() == (charged, charged)
    assert CREATED not in till.payments()
    assert (result.compensation_status, result.refunded_amount * 100, result.amount_charged * 100) == (
        "success",
        charged,
        charged,
    )
    assert money_moved(order) == (Decimal(charged) / 100, Decimal(charged) / 100, 0)


async def test_no_more_than_the_order_s_amount_goes_back_without_a_person(till: Till) -> None:
    """The gateway says that the order was charged twice. Perhaps it was; a person finds out."""
    order = await till.order()
    charged = await till.charge(order)
    till.ledger.confirm((await made_by_us(till)).id, key=None)
    left = await made_by_us(till)
    with pytest.raises(RefundRefused) as refused:
        await till.refund(order)
    assert till.money() == (2 * UNITS, UNITS)
    assert [r.amount for r in till.ledger.get(charged.payment_id).refunds] == [UNITS], (
        "the one that the journal has"
    )
    assert till.ledger.get(left.id).status is CANCELLED, "what could still be charged cannot any more"
    details = refused.value.details()
    assert (details["error_code"], details["amount_at_risk"]) == ("refund_over_charge", "10.00")
    assert order.undo_plan() == (STEP,)


class Lying:
    """The gateway, of which one kind of answer says something else about the payment than is so."""

    def __init__(self, honest: Any, move: str, says: dict[str, Any]) -> None:
        self._honest, self._move, self._says = honest, move, says

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._honest, name)

        async def called(*args: Any, **kwargs: Any) -> Any:
            answer = await real(*args, **kwargs)
            if name != self._move:
                return answer
            return (
                [replace(each, **self._says) for each in answer]
                if isinstance(answer, list)
                else replace(answer, **self._says)
            )

        return called


WRONG: list[dict[str, Any]] = [
    {"amount": Decimal("0.01")},
    {"amount": Decimal("0.00")},
    {"amount": Decimal("100000.00")},
    {"currency": "EUR"},
    {"order_id": "B"},
    {"order_id": ""},
]


@pytest.mark.parametrize("says", WRONG, ids=str)
@pytest.mark.parametrize("move", ["create", "confirm", "get"])
async def test_an_answer_about_something_else_is_no_charge(
    till: Till, move: str, says: dict[str, Any]
) -> None:
    order = await till.order()
    if move == "get":  # asked on a later attempt only
        await begin(STEP, [order])
        payment = await made_by_us(till)
        async with transaction() as tx:
            await journal.add_notes(tx, [(order, STEP, {"payment_id": payment.id})])
    honest, till.gateway = till.gateway, Lying(till.gateway, move, says)  # type: ignore[assignment]
    with pytest.raises(PaymentMismatch) as mismatch:
        await till.charge(order)
    assert mismatch.value.retryable, "it is unclear, and looked up"
    assert till.payments().count(SUCCEEDED) == (move == "confirm"), "charged once at the most"
    till.gateway = honest
    assert (await till.charge(order)).amount_charged == TOTAL, "an honest answer is believed again"
    assert till.money() == (UNITS, 0)


@pytest.mark.parametrize("says", WRONG[2:], ids=str)
async def test_a_refund_of_something_else_is_for_a_person(till: Till, says: dict[str, Any]) -> None:
    order = await till.order()
    await till.charge(order)
    honest, till.gateway = till.gateway, Lying(till.gateway, "find", says)  # type: ignore[assignment]
    with pytest.raises(RefundRefused) as refused:
        await till.refund(order)
    assert till.money() == (UNITS, 0), "nothing goes back on the word of such a gateway"
    assert Decimal(refused.value.details()["amount_at_risk"]) >= TOTAL
    till.gateway = honest
    assert (await till.refund(order)).refunded_amount == TOTAL


async def test_a_gateway_that_charges_and_returns_an_error_is_called_a_few_times_only(till: Till) -> None:
    """It keeps no keys, pays each time, and never says so."""
    order = await till.order()
    await till.charge(order)
    honest, paid = till.gateway, list[Decimal]()

    class PaysSilently:
        def __getattr__(self, name: str) -> Any:
            return getattr(honest, name)

        async def refund(self, _payment_id: str, *, amount: Decimal, **_: Any) -> Any:
            paid.append(amount)
            raise PaymentGatewayError("internal_error", "sorry", retryable=True)

    till.gateway = PaysSilently()  # type: ignore[assignment]
    for _ in range(20):
        with pytest.raises((PaymentGatewayError, RefundRefused)) as error:
            await till.refund(order)
    assert len(paid) == MOST_UNCLEAR_REFUNDS
    assert isinstance(error.value, RefundRefused)
    assert (error.value.error_code, error.value.amount_at_risk) == ("refund_unclear", TOTAL)
    assert money_moved(order) == (TOTAL, 0, TOTAL)


@pytest.mark.parametrize(("code", "looking"), [("rate_limit", False), ("lock_timeout", False), ("x", True)])
async def test_a_refund_that_was_certainly_not_made_is_no_unclear_one(
    till: Till, code: str, looking: bool
) -> None:
    order = await till.order()
    await till.charge(order)
    honest = till.gateway

    class Busy:
        def __getattr__(self, name: str) -> Any:
            return getattr(honest, name)

        async def refund(self, _payment_id: str, **_: Any) -> Any:
            error = PaymentGatewayError(code, "later", retryable=True)
            error.before_request = looking
            raise error

    till.gateway = Busy()  # type: ignore[assignment]
    for _ in range(MOST_UNCLEAR_REFUNDS + 1):
        with pytest.raises(PaymentGatewayError, match=code):
            await till.refund(order)
    till.gateway = honest
    await till.refund(order)
    assert till.money() == (UNITS, UNITS)


@pytest.mark.parametrize("forget", [False, True])
async def test_a_refund_of_a_dead_worker_that_arrives_late_is_no_refusal(till: Till, forget: bool) -> None:
    """It arrives after the next worker looked, and before that one's own request:
    the money is back, so nothing is at risk."""
    till.ledger.behaviour = Behaviour(forget_keys=forget)
    order = await till.order()
    charged = await till.charge(order)

    class Overtaken:
        def __getattr__(self, name: str) -> Any:
            return getattr(till.gateway, name)

        async def refund(self, payment_id: str, **request: Any) -> Any:
            await till.gateway.refund(payment_id, **{**request, "key": "of-the-dead-worker"})
            return await till.gateway.refund(payment_id, **request)

    await begin_undo(STEP, [order])
    result = await refund(order, Overtaken())
    assert (result.compensation_status, result.refunded_amount, result.original_payment_id) == (
        "success",
        TOTAL,
        charged.payment_id,
    )
    assert result.refund_id == till.ledger.find("A")[0].refunds[0].id
    assert till.money() == (UNITS, UNITS)


async def test_a_refused_refund_states_the_amount_at_risk(till: Till) -> None:
    order = await till.order("0259")
    charged = await till.charge(order)
    for _ in range(2):
        with pytest.raises(RefundRefused) as refused:
            await till.refund(order)
    assert till.money() == (UNITS, 0)
    details = refused.value.details()
    assert (details["requires_manual_refund"], details["compensation_status"], details["retryable"]) == (
        True,
        "failed",
        False,
    )
    assert (details["amount_at_risk"], details["currency"], details["payment_id"]) == (
        "10.00",
        "USD",
        charged.payment_id,
    )
    assert details["error_code"] == "refund_refused"
    assert order.undo_plan() == (STEP,), "a failed undo is never called done"
    assert money_moved(order) == (TOTAL, 0, TOTAL)


async def test_a_refund_that_is_refused_after_a_part_was_refunded_by_hand(till: Till) -> None:
    """At risk is what is left, and charged less refunded is what is at risk: or the books do not balance."""
    order = await till.order()
    charged = await till.charge(order)
    till.ledger.refund(charged.payment_id, amount=300, currency="USD", key=None)
    till.ledger._run("UPDATE payments SET card_last4 = '0259'")
    with pytest.raises(RefundRefused) as refused:
        await till.refund(order)
    assert refused.value.details()["amount_at_risk"] == "7.00"
    assert till.money() == (UNITS, 300)
    assert money_moved(order) == (TOTAL, Decimal("3.00"), Decimal("7.00"))


@pytest.mark.parametrize("refused_first", [True, False])
async def test_one_refused_refund_does_not_stop_the_others(till: Till, refused_first: bool) -> None:
    order = await till.order()
    await begin(STEP, [order])
    cards = ["0259", "1234"] if refused_first else ["1234", "0259"]
    for card in cards:
        till.ledger.confirm((await made_by_us(till, card)).id, key=None)
    open_one = await made_by_us(till)
    with pytest.raises(RefundRefused) as refused:
        await till.refund(order)
    assert till.money() == (2 * UNITS, UNITS), "what could be given back was"
    assert till.ledger.get(open_one.id).status is CANCELLED, "what could still be charged cannot any more"
    assert refused.value.details()["amount_at_risk"] == "10.00"


async def test_a_refund_that_was_refused_is_asked_for_again_when_a_person_tries_again(till: Till) -> None:
    """Refused for want of funds, say; the next day there are some.
    The gateway keeps the answer under the key that was used."""
    order = await till.order("0259")
    await till.charge(order)
    with pytest.raises(RefundRefused):
        await till.refund(order)
    till.ledger._run("UPDATE payments SET card_last4 = '1234'")
    assert (await till.refund(order)).refunded_amount == TOTAL
    assert till.money() == (UNITS, UNITS)


async def test_a_gateway_that_is_down_makes_no_refund_final(till: Till) -> None:
    order = await till.order()
    await till.charge(order)
    till.ledger.behaviour = Behaviour(error_rate=1)
    with pytest.raises(PaymentGatewayError) as error:
        await till.refund(order)
    assert error.value.retryable
    assert money_moved(order) == (TOTAL, 0, TOTAL), "as long as it is not known to be back it is at risk"
    till.ledger.behaviour = Behaviour()
    await till.refund(order)
    assert till.money() == (UNITS, UNITS)
    assert money_moved(order) == (TOTAL, TOTAL, 0)


async def test_money_that_may_have_been_charged_is_at_risk_until_known(till: Till) -> None:
    order = await till.order("0341")
    with pytest.raises(PaymentGatewayTimeout):
        await till.charge(order)
    till.ledger.behaviour = Behaviour(error_rate=1)
    with pytest.raises(PaymentGatewayError):
        await till.refund(order)
    assert money_moved(order)[2] == TOTAL


# -- a gateway that misbehaves


@pytest.mark.parametrize("forget", [False, True], ids=["keeps keys", "forgets keys"])
@pytest.mark.parametrize("seed", range(15))
async def test_one_charge_and_one_refund_whatever_the_gateway_does(
    till: Till, seed: int, forget: bool
) -> None:
    """Half of all requests fail, before or after the work, or are never answered; workers die in between."""
    card = ["1234", "0341", "0119", "0000"][seed % 4]
    order = await till.order(card)
    till.ledger.behaviour = Behaviour(error_rate=0.4, hang_rate=0.2, seed=seed, forget_keys=forget)
    try:
        for attempt in range(200):
            try:
                result = await till.charge(order)
                break
            except (PaymentGatewayError, PaymentGatewayTimeout) as error:
                if not error.retryable:
                    raise
            if attempt % 5 == 4:
                order = await till.next_worker()
        assert result.amount_charged == TOTAL
        assert card != "0000"
        assert till.money() == (UNITS, 0)
    except PaymentDeclined:
        assert card == "0000"
        assert till.money() == (0, 0)
    assert till.payments().count(SUCCEEDED) == (card != "0000")
    order = await till.next_worker()
    await till.until_clear(till.refund, order, most=200)
    charged = UNITS if card != "0000" else 0
    assert till.money() == (charged, charged)
    assert CREATED not in till.payments(), "nothing is left that could still be charged"
    assert money_moved(order)[1:] == (Decimal(charged) / 100, 0)


def test_keys_are_made_of_the_order_and_the_move_only() -> None:
    assert names.key("A", "confirm") == "confirm-A"
