"""Reconciliation: every kind of discrepancy is planted, in the gateway's ledger over HTTP or in our tables,
and found; what is mended is read from the gateway's own ledger; and what is in order raises no alarm."""

from __future__ import annotations

import asyncio
import copy
import json
import sqlite3
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as rounds
from hypothesis import strategies as st
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowFilterName
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.states import StateType

import flows.reconcile_payments as module
from deployments.local.programs import Sandbox
from deployments.samples import load_samples
from flows.accept_discrepancies import accept_discrepancies
from flows.housekeeping import housekeeping
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from flows.reconcile_payments import ARTIFACT, EVENT, MORE_EVENT, MOST_EVENTS, reconcile_payments
from flows.resolve_order import resolve_order
from shop.orders import intake
from shop.orders.outcomes import Outcome
from shop.payments.errors import RefundRefused
from shop.payments.gateway import Payment, PaymentStatus, Refund
from shop.payments.gateways import gateway
from shop.payments.sandbox.ledger import Ledger
from shop.reconciliation import repair
from shop.reconciliation.compare import OurOrder, discrepancies_of
from shop.reconciliation.discrepancy import Discrepancy, Kind
from shop.reconciliation.outstanding import ACTION, accept_sync
from shop.reconciliation.reconcile import reconcile
from shop.review.attention import read_queue_sync
from shop.review.cancel import ask_to_cancel
from shop.review.errors import NothingToAccept, ResolutionIncomplete
from shop.review.resolution import Resolution
from shop.settings import settings
from tests.conftest import HOME, own_port
from tests.integration.world import World, an_order
from tests.waiting import until

PRICE = Decimal("999.99")
NEVER = datetime.max.replace(tzinfo=UTC)


@pytest.fixture(scope="module")
def sandbox(world_dir: Path) -> Iterator[Sandbox]:
    """A gateway of this module's own: what other tests have left in theirs is none of our orders'
    business."""
    own_port(world_dir / "reconciled")
    own = Sandbox(
        home=HOME,
        folder=world_dir / "reconciled",
        logs=world_dir / "reconciled-logs",
        pids=world_dir / "reconciled-run",
    )
    try:
        own.start()
        yield own
    finally:
        own.stop()


@dataclass
class Books:
    """A shop, its gateway, and the time at which the test began."""

    world: World
    since: datetime
    unique: str

    async def found(self, *, fix: bool = True) -> list[Discrepancy]:
        async with aclosing(reconcile(gateway(), self.since, fix=fix)) as each:
            return [discrepancy async for discrepancy in each]

    async def kinds(self, *, fix: bool = True) -> list[tuple[Kind, str | None, bool]]:
        return sorted((d.kind, d.order_id or d.product_id, d.repaired) for d in await self.found(fix=fix))

    async def run(self, **parameters: Any) -> Any:
        return await reconcile_payments(return_state=True, **parameters)

    # -- orders

    async def ended(self, *orders: dict[str, Any]) -> None:
        assert {receipt.status for receipt in intake.submit(orders)} <= {"accepted", "known"}
        await process_pending_orders(consumer_seconds=0)

    async def completed(self, name: str = "DONE", **fields: Any) -> str:
        order = an_order(f"{name}-{self.unique}", **fields)
        await self.ended(order)
        assert self.world.order(order["id"]).outcome == "completed"
        return str(order["id"])

    async def declined(self, name: str = "NO") -> str:
        order = an_order(f"{name}-{self.unique}", card="0000")
        await self.ended(order)
        assert self.world.order(order["id"]).outcome == "compensated"
        return str(order["id"])

    def unknown(self) -> str:
        return f"NOBODY'S-{self.unique}"

    # -- what is planted at the gateway

    async def created(
        self, order_id: str, amount: Decimal = PRICE, currency: str = "USD", card: str = "1234"
    ) -> Payment:
        return await gateway().create(
            order_id=order_id,
            amount=amount,
            currency=currency,
            method="credit_card",
            card_last4=card,
            token=None,
            key=uuid.uuid4().hex,
        )

    async def charged(
        self, order_id: str, amount: Decimal = PRICE, currency: str = "USD", card: str = "1234"
    ) -> Payment:
        payment = await self.created(order_id, amount, currency, card)
        return await gateway().confirm(payment.id, key=f"planted-{payment.id}")

    async def refunded(self, payment: Payment, amount: Decimal) -> None:
        await gateway().refund(
            payment.id, amount=amount, currency=payment.currency, key=f"planted-{payment.id}-{amount}"
        )


@pytest.fixture
async def books(saga: World, sandbox: Sandbox, unique: str, monkeypatch: pytest.MonkeyPatch) -> Books:
    """With an empty ledger: a shop knows all that its gateway has."""
    with closing(sqlite3.connect(sandbox.ledger, isolation_level=None)) as ledger:
        for table in ("refunds", "payments", "answers"):
            ledger.execute(f"DELETE FROM {table}")
    monkeypatch.setenv("RECONCILIATION_GRACE_SECONDS", "0")
    settings.cache_clear()
    return Books(saga, datetime.now(UTC), unique)


# -- no false alarm


@pytest.mark.parametrize("lane", ["own runs", "pending lane"])
@pytest.mark.short_form("pending lane")
async def test_no_sample_order_s_end_is_an_alarm(books: Books, lane: str) -> None:
    orders = [
        {**copy.deepcopy(order), "id": f"{order['id']}-{books.unique}"}
        for s in load_samples()
        for order in s.orders
    ]
    if lane == "own runs":
        for order in orders:
            await process_order(order, return_state=True)
    else:
        await books.ended(*orders)
    outcomes = {row.outcome for row in books.world.sql("SELECT outcome FROM customer_order")}
    assert outcomes == {outcome.value for outcome in Outcome}, "every end is among them"
    assert await books.found() == []


async def test_orders_under_way_are_not_judged(books: Books) -> None:
    """Waiting, reserved, created, charged: none has an end that could be wrong."""
    stages = [f"{stage}-{books.unique}" for stage in ("WAITING", "CREATED", "CHARGED", "TWICE")]
    intake.submit([an_order(order_id) for order_id in stages])
    await books.created(stages[1])
    await books.charged(stages[2])
    await books.charged(stages[3])
    await books.charged(stages[3])
    assert await books.found() == []
    assert [books.world.money(order_id) for order_id in stages] == [
        (0, 0),
        (0, 0),
        (PRICE, 0),
        (2 * PRICE, 0),
    ], "nothing was touched"


async def test_what_moved_just_now_is_not_judged(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    order_id = await books.declined()
    await books.charged(order_id)
    await books.charged(books.unknown())
    monkeypatch.setenv("RECONCILIATION_GRACE_SECONDS", "60")
    settings.cache_clear()
    assert await books.found() == []
    monkeypatch.setenv("RECONCILIATION_GRACE_SECONDS", "0")
    settings.cache_clear()
    assert len(await books.found()) == 2


async def test_orders_that_run_meanwhile_raise_no_alarm(books: Books) -> None:
    """Reconciling again and again beside two consumers."""
    orders = [
        an_order(
            f"BUSY-{books.unique}-{i}",
            card=["1234", "0000", "0119"][i % 3],
            country="AQ" if i % 4 == 0 else "US",
        )
        for i in range(40)
    ]
    intake.submit(orders)
    consumers = asyncio.gather(*(process_pending_orders(consumer_seconds=0, batch_size=7) for _ in range(2)))
    alarms: list[Discrepancy] = []
    rounds_made = 0
    while not consumers.done() or rounds_made == 0:
        alarms += await books.found()
        rounds_made += 1
    await consumers
    assert alarms == []
    assert await books.found() == []
    assert all(row.outcome for row in books.world.sql("SELECT outcome FROM customer_order"))


# -- money, each kind


async def test_charged_without_an_order_is_for_a_person(books: Books) -> None:
    payment = await books.charged(books.unknown())
    (found,) = await books.found()
    assert (found.kind, found.order_id, found.amount, found.currency) == (
        Kind.CHARGED_WITHOUT_ORDER,
        books.unknown(),
        PRICE,
        "USD",
    )
    assert (found.repaired, found.repairable, found.payment_ids) == (False, False, (payment.id,))
    assert books.world.money(books.unknown()) == (PRICE, 0), "never guessed"
    await books.refunded(payment, PRICE)
    assert await books.found() == [], "a person has seen to it"


async def test_created_without_an_order_moves_nothing_and_is_no_alarm(books: Books) -> None:
    await books.created(books.unknown())
    assert await books.found() == []


@pytest.mark.parametrize("forget_keys", [False, True])
async def test_charged_but_ended_uncompleted_is_refunded_once(books: Books, forget_keys: bool) -> None:
    """A charge that took effect after its order had been undone."""
    order_id = await books.declined()
    await books.charged(order_id)
    books.world.misbehave(forget_keys=forget_keys)
    try:
        two_at_once = await asyncio.gather(books.found(), books.found())
    finally:
        books.world.misbehave(forget_keys=False)
    assert {(d.kind, d.amount, d.currency, d.repairable) for each in two_at_once for d in each} == {
        (Kind.CHARGED_NOT_COMPLETED, PRICE, "USD", True)
    }
    assert any(d.repaired for each in two_at_once for d in each)
    assert books.world.money(order_id) == (PRICE, PRICE), "the gateway's ledger"
    assert await books.found() == []
    books.world.assert_books_balance()
    undone = {u["step"]: u for u in books.world.order(order_id).undone}
    assert undone["process_payment"]["status"] == "success"
    assert undone["process_payment"]["details"]["refunded_amount"] == str(PRICE)
    mails = books.world.sql(
        "SELECT kind, payload ->> 'amount' FROM outbox WHERE order_id = :id ORDER BY id", id=order_id
    )
    assert mails == [("payment_failed", None), ("refund", str(PRICE))], "the customer hears of it, once"


async def test_refunded_less_than_charged_is_made_whole(books: Books) -> None:
    """Both books say that a part went back; the rest is owed."""
    order_id = await books.declined()
    payment = await books.charged(order_id)
    await books.refunded(payment, Decimal("400.00"))
    books.world.sql(
        "UPDATE customer_order SET amount_charged = :c, amount_refunded = 400 WHERE id = :id",
        c=PRICE,
        id=order_id,
    )
    (found,) = await books.found()
    assert (found.kind, found.amount, found.repaired) == (Kind.CHARGED_NOT_COMPLETED, Decimal("599.99"), True)
    assert books.world.money(order_id) == (PRICE, PRICE)
    assert [
        refund["amount"] for payment in books.world.ledger(order_id) for refund in payment["refunds"]
    ] == [40000, 59999]
    books.world.assert_books_balance()


async def test_a_rejected_order_that_was_charged_is_for_a_person(books: Books) -> None:
    """It has no journal of a payment, and its content may be anything:
    its amount is unknown."""
    order_id = f"ODD-{books.unique}"
    await books.ended({**an_order(order_id), "items": "many", "total_amount": "much"})
    assert books.world.order(order_id).outcome == "rejected"
    await books.charged(order_id)
    assert await books.kinds() == [(Kind.CHARGED_NOT_COMPLETED, order_id, False)]
    assert books.world.money(order_id) == (PRICE, 0)
    (case,) = read_queue_sync().cases
    assert (case.order_id, case.amount_at_risk) == (order_id, PRICE)
    assert await books.found() == [], "a person has it"


async def test_a_refused_refund_goes_to_review(books: Books) -> None:
    order_id = await books.declined()
    await books.charged(order_id, card="0259")
    (found,) = await books.found()
    assert (found.kind, found.repaired) == (Kind.CHARGED_NOT_COMPLETED, False)
    assert found.remark is not None
    assert "refund_refused" in found.remark
    order = books.world.order(order_id)
    assert (order.outcome, order.amount_charged, order.amount_at_risk) == ("needs_attention", PRICE, PRICE), (
        "listed, never hidden"
    )
    (case,) = read_queue_sync().cases
    assert (case.order_id, case.amount_at_risk, case.error_code) == (order.id, PRICE, "refund_refused"), (
        "and under review"
    )
    assert books.world.money(order_id) == (PRICE, 0)
    books.world.assert_books_balance()
    assert await books.found() == [], "it is under review, with the right amount"


async def test_a_refused_refund_repeats_no_customer(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journal, manual review and remark have the gateway's words, which may be the customer's."""
    order_id = await books.declined()
    await books.charged(order_id)
    books.world.sql(
        """UPDATE customer_order SET content = content || '{"customer_name": "Jane Qmarker"}' """
        "WHERE id = :id",
        id=order_id,
    )

    async def refused(*_: object) -> NoReturn:
        numbers: dict[str, Any] = {
            "payment_id": "p",
            "charged": PRICE,
            "refunded": Decimal(0),
            "currency": "USD",
            "refusals": 1,
        }
        raise RefundRefused("refund_refused", "no refund to JANE  qmarker", **numbers)

    monkeypatch.setattr(repair, "refund", refused)
    (found,) = await books.found()
    assert "no refund to" in str(found.remark)
    rows = books.world.sql(
        "SELECT undo_error::text FROM order_step WHERE order_id = :id AND undo_error IS NOT NULL", id=order_id
    )
    assert rows
    for shown in (str(found.remark), str(rows), str(read_queue_sync().cases)):
        assert "qmarker" not in shown.lower(), shown


async def test_without_fix_nothing_is_touched(books: Books) -> None:
    charged, left = await books.declined("LATE"), await books.declined("LEFT")
    await books.charged(charged)
    await books.created(left)
    expected = sorted([(Kind.CHARGED_NOT_COMPLETED, charged, False), (Kind.LEFT_UNCONFIRMED, left, False)])
    assert await books.kinds(fix=False) == expected
    assert books.world.money(charged) == (PRICE, 0)
    assert "created" in {payment["status"] for payment in books.world.ledger(left)}
    assert await books.kinds(fix=False) == expected


async def test_ours_but_not_charged_there(books: Books) -> None:
    """An order that completed according to our table, and that the gateway does not know."""
    order_id = await books.completed()
    stranger = f"STRANGER-{books.unique}"
    books.world.sql("UPDATE customer_order SET id = :new WHERE id = :old", new=stranger, old=order_id)
    books.world.sql("UPDATE shipment SET order_id = :new WHERE order_id = :old", new=stranger, old=order_id)
    found = {(d.kind, d.order_id): d for d in await books.found()}
    assert set(found) == {(Kind.NOT_CHARGED, stranger), (Kind.CHARGED_WITHOUT_ORDER, order_id)}
    assert found[Kind.NOT_CHARGED, stranger].amount == PRICE
    assert found[Kind.NOT_CHARGED, stranger].theirs == "nothing charged"
    assert not any(d.repaired for d in found.values())


async def test_a_completed_order_whose_payment_was_only_created_is_not_cancelled(books: Books) -> None:
    """Whoever looks into it may still want to confirm that payment."""
    order_id, stranger = await books.completed(), f"STRANGER-{books.unique}"
    books.world.sql("UPDATE customer_order SET id = :new WHERE id = :old", new=stranger, old=order_id)
    books.world.sql("UPDATE shipment SET order_id = :new WHERE order_id = :old", new=stranger, old=order_id)
    await books.created(stranger)
    assert (Kind.NOT_CHARGED, stranger, False) in await books.kinds()
    assert [payment["status"] for payment in books.world.ledger(stranger)] == ["created"]


async def test_charged_more_than_once_is_for_a_person(books: Books) -> None:
    order_id = await books.completed()
    again = await books.charged(order_id)
    (found,) = await books.found()
    assert (found.kind, found.order_id, found.amount, found.repaired) == (
        Kind.CHARGED_MORE_THAN_ONCE,
        order_id,
        PRICE,
        False,
    )
    assert len(found.payment_ids) == 2
    assert books.world.money(order_id) == (2 * PRICE, 0), "which of them is the right one is not guessed"
    await books.refunded(again, PRICE)
    assert await books.found() == [], "once a person has refunded the other"


@pytest.mark.parametrize("where", ["our charge", "our total"])
async def test_amounts_that_differ(books: Books, where: str) -> None:
    order_id = await books.completed()
    books.world.sql(
        "UPDATE customer_order SET amount_charged = 990 WHERE id = :id"
        if where == "our charge"
        else """UPDATE customer_order SET content = content || '{"total_amount": "990.00"}' WHERE id = :id""",
        id=order_id,
    )
    (found,) = await books.found()
    assert (found.kind, found.order_id, found.amount, found.repaired) == (
        Kind.AMOUNT_DIFFERS,
        order_id,
        Decimal("9.99"),
        False,
    )


async def test_currencies_that_differ(books: Books) -> None:
    order_id = await books.completed()
    books.world.sql("UPDATE customer_order SET currency = 'EUR' WHERE id = :id", id=order_id)
    (found,) = await books.found()
    assert (found.kind, found.order_id, found.amount, found.currency) == (
        Kind.CURRENCY_DIFFERS,
        order_id,
        PRICE,
        "USD",
    )


async def test_a_refund_that_only_the_gateway_knows(books: Books) -> None:
    order_id = await books.completed()
    (payment,) = await gateway().find(order_id)
    await books.refunded(payment, Decimal("20.00"))
    (found,) = await books.found()
    assert (found.kind, found.amount, found.repaired) == (Kind.REFUND_UNKNOWN_TO_US, Decimal(20), False)
    assert books.world.money(order_id) == (PRICE, 20)


async def test_a_refund_that_only_the_gateway_knows_of_an_undone_order_is_written_down(books: Books) -> None:
    """Nothing is left to refund, so nothing moves: only our books learn of it."""
    order_id = await books.declined()
    payment = await books.charged(order_id)
    await books.refunded(payment, PRICE)
    assert await books.kinds() == [(Kind.REFUND_UNKNOWN_TO_US, order_id, True)]
    assert books.world.money(order_id) == (PRICE, PRICE)
    books.world.assert_books_balance()
    assert await books.found() == []


async def test_a_refund_that_only_we_know(books: Books) -> None:
    """Of a completed order; and of one that was undone:
    there the money may be on its way back, so it is not refunded again."""
    done, undone = await books.completed(), await books.declined()
    await books.charged(undone)
    books.world.sql(
        "UPDATE customer_order SET amount_charged = :c, amount_refunded = 50 WHERE id = :id", c=PRICE, id=done
    )
    books.world.sql(
        "UPDATE customer_order SET amount_charged = :c, amount_refunded = :c WHERE id = :id",
        c=PRICE,
        id=undone,
    )
    found = {d.order_id: d for d in await books.found()}
    assert {d.kind for d in found.values()} == {Kind.REFUND_UNKNOWN_TO_GATEWAY}
    assert (found[done].amount, found[undone].amount) == (50, PRICE)
    assert [books.world.money(order_id) for order_id in (done, undone)] == [(PRICE, 0), (PRICE, 0)]


@pytest.mark.parametrize("outcome", ["completed", "compensated"])
async def test_a_payment_that_was_left_unconfirmed_is_cancelled(books: Books, outcome: str) -> None:
    order_id = await (books.completed() if outcome == "completed" else books.declined())
    left = await books.created(order_id)
    money = books.world.money(order_id)
    (found,) = await books.found()
    assert (found.kind, found.amount, found.repaired, found.payment_ids) == (
        Kind.LEFT_UNCONFIRMED,
        PRICE,
        True,
        (left.id,),
    )
    status = {payment["id"]: payment["status"] for payment in books.world.ledger(order_id)}
    assert status[left.id] == "cancelled", "it can never be charged any more"
    assert books.world.money(order_id) == money
    assert await books.found() == []


async def test_the_amount_at_risk_has_to_be_right(books: Books) -> None:
    less, more, right = (f"{name}-{books.unique}" for name in ("LESS", "MORE", "RIGHT"))
    await books.ended(*(an_order(order_id, card="0259", country="AQ") for order_id in (less, more, right)))
    await books.charged(more, Decimal("10.00"))
    books.world.sql(
        "UPDATE customer_order SET amount_at_risk = 1500, amount_charged = 1500 WHERE id = :id", id=less
    )
    found = {d.order_id: (d.kind, d.amount, d.repaired) for d in await books.found()}
    assert found == {
        less: (Kind.NOT_CHARGED, Decimal("500.01"), False),
        more: (Kind.AMOUNT_DIFFERS, Decimal(10), False),
    }


async def test_what_a_person_settled_past_the_gateway_is_not_refunded(books: Books) -> None:
    """The customer got the money by another way;
    the gateway keeps it, and a second refund would be one too many."""
    order_id = await books.declined()
    await books.charged(order_id)
    settled = json.dumps({"refunded_by_hand": str(PRICE)})
    books.world.sql(
        "UPDATE order_step SET undo_status = 'done', undo_result = CAST(:r AS jsonb) "
        "WHERE order_id = :id AND step = 'process_payment'",
        r=settled,
        id=order_id,
    )
    books.world.sql("UPDATE customer_order SET amount_charged = :c WHERE id = :id", c=PRICE, id=order_id)
    assert await books.found() == []
    assert books.world.money(order_id) == (PRICE, 0)


async def test_what_was_settled_past_the_gateway_and_then_refunded_there_too_is_reported(
    books: Books,
) -> None:
    """The customer has been paid twice."""
    order_id = await books.declined()
    payment = await books.charged(order_id)
    settled = json.dumps({"refunded_by_hand": str(PRICE)})
    books.world.sql(
        "UPDATE order_step SET undo_status = 'done', undo_result = CAST(:r AS jsonb) "
        "WHERE order_id = :id AND step = 'process_payment'",
        r=settled,
        id=order_id,
    )
    books.world.sql("UPDATE customer_order SET amount_charged = :c WHERE id = :id", c=PRICE, id=order_id)
    await books.refunded(payment, PRICE)
    (found,) = await books.found()
    assert (found.kind, found.order_id, found.amount, found.repairable) == (
        Kind.REFUND_UNKNOWN_TO_US,
        order_id,
        PRICE,
        False,
    )


def send_back(sandbox: Sandbox, order_id: str) -> None:
    """The customer's bank returns the order's refunds."""
    with closing(sqlite3.connect(sandbox.ledger, isolation_level=None)) as ledger:
        ledger.execute(
            "DELETE FROM refunds WHERE payment IN (SELECT number FROM payments WHERE order_id = ?)",
            [order_id],
        )
        ledger.execute("UPDATE payments SET refunded = 0 WHERE order_id = ?", [order_id])


async def assert_at_risk(books: Books, order_id: str, amount: Decimal) -> None:
    """The returned refund is under review, with this amount at risk, and every account agrees."""
    (found,) = await books.found()
    assert (found.kind, found.amount, found.repaired) == (Kind.REFUND_UNKNOWN_TO_GATEWAY, amount, False)
    (case,) = read_queue_sync().cases
    assert (case.order_id, case.amount_at_risk, case.next_retry_at) == (order_id, amount, None)
    books.world.assert_books_balance()
    assert await books.found() == []


async def assert_settled(books: Books, order_id: str) -> None:
    assert (books.world.order(order_id).outcome, read_queue_sync().cases) == ("compensated", [])
    books.world.assert_books_balance()
    assert await books.found() == []


async def test_what_a_person_gave_back_is_not_refunded_with_a_refund_that_the_bank_sends_back(
    books: Books, sandbox: Sandbox
) -> None:
    """A part was refunded in the gateway's dashboard, the rest by hand; then that part comes back, twice."""
    part, rest = Decimal(400), PRICE - 400
    order_id = await books.completed("CLOSED", card="0259")
    books.world.misbehave(take_refunds=True)
    (payment,) = await gateway().find(order_id)
    await books.refunded(payment, part)
    books.world.misbehave(take_refunds=False)
    await ask_to_cancel(order_id, reason="returned", requested_by="ann")
    await process_pending_orders(consumer_seconds=0)
    await resolve_order(order_id, Resolution.REFUNDED_BY_HAND, "ann", reference="T-1", return_state=True)
    await assert_settled(books, order_id)

    send_back(sandbox, order_id)
    await assert_at_risk(books, order_id, part)
    books.world.misbehave(take_refunds=True)
    await resolve_order(order_id, Resolution.RETRY_NOW, "ann", return_state=True)
    books.world.misbehave(take_refunds=False)
    assert books.world.money(order_id) == (PRICE, part), "the rest was given back by hand"
    await assert_settled(books, order_id)

    send_back(sandbox, order_id)
    await assert_at_risk(books, order_id, part)
    await resolve_order(order_id, Resolution.RETRY_NOW, "ann", return_state=True)
    (case,) = read_queue_sync().cases
    assert (case.amount_at_risk, case.error_code) == (part, "refund_refused")
    await resolve_order(order_id, Resolution.WRITTEN_OFF, "ann", reason="no account", return_state=True)
    assert books.world.money(order_id) == (PRICE, 0)
    rows = books.world.sql("SELECT amount_by_hand, amount_written_off FROM attention")
    assert rows == [(rest, part)]
    await assert_settled(books, order_id)


@pytest.mark.parametrize("how", [Resolution.RETRY_NOW, Resolution.REFUNDED_BY_HAND])
async def test_a_refunded_gift_card_is_not_at_risk_again(
    books: Books, sandbox: Sandbox, how: Resolution
) -> None:
    """The gateway refunded its part, a person the gift card's; then the bank returns the gateway's refund."""
    order_id, charged = f"GIFT-{books.unique}", PRICE - 300
    parts = [{"method": "gift_card", "amount": "300"}]
    await books.ended(an_order(order_id, country="AQ", part_payments=parts))
    await resolve_order(order_id, Resolution.REFUNDED_BY_HAND, "ann", reference="GC-1", return_state=True)
    assert books.world.money(order_id) == (charged, charged)
    await assert_settled(books, order_id)

    send_back(sandbox, order_id)
    await assert_at_risk(books, order_id, charged)
    await resolve_order(order_id, how, "ann", reference="T-2", return_state=True)
    refunded = charged if how is Resolution.RETRY_NOW else 0
    assert books.world.money(order_id) == (charged, refunded)
    rows = books.world.sql("SELECT amount_by_hand, amount_written_off FROM attention")
    assert rows == [(300 + charged - refunded, 0)]
    await assert_settled(books, order_id)


async def test_a_refund_that_the_bank_sends_back_goes_to_review(books: Books, sandbox: Sandbox) -> None:
    """Days after the order was undone. Nothing is paid again before a person says so, and then once."""
    order_id = f"BACK-{books.unique}"
    await books.ended(an_order(order_id, country="AQ"))
    assert books.world.money(order_id) == (PRICE, PRICE)
    send_back(sandbox, order_id)
    (found,) = await books.found()
    assert (found.kind, found.order_id, found.amount, found.repaired) == (
        Kind.REFUND_UNKNOWN_TO_GATEWAY,
        order_id,
        PRICE,
        False,
    )
    (case,) = read_queue_sync().cases
    assert (case.order_id, case.amount_at_risk, case.next_retry_at, case.step) == (
        order_id,
        PRICE,
        None,
        "process_payment",
    )
    assert books.world.order(order_id).outcome == "needs_attention"
    books.world.assert_books_balance()
    await housekeeping()
    assert books.world.money(order_id) == (PRICE, 0), "not by itself"
    assert await books.found() == [], "it is under review: nothing more is reported"

    await resolve_order(order_id, Resolution.RETRY_NOW, "ann", return_state=True)
    assert books.world.money(order_id) == (PRICE, PRICE)
    assert books.world.order(order_id).outcome == "compensated"
    assert read_queue_sync().cases == []
    books.world.assert_books_balance()
    assert await books.found() == []


async def test_what_moved_before_the_time_that_is_looked_at(books: Books) -> None:
    """A second charge long after the first, and a refund of an old payment, are seen for what they are."""
    twice, back, quiet = [await books.completed(name) for name in ("TWICE", "BACK", "QUIET")]
    later = datetime.now(UTC)
    await books.charged(twice)
    (payment,) = await gateway().find(back)
    await books.refunded(payment, Decimal(5))
    found = {d.order_id: d.kind for d in await replace(books, since=later).found()}
    assert found == {twice: Kind.CHARGED_MORE_THAN_ONCE, back: Kind.REFUND_UNKNOWN_TO_US}
    assert quiet not in found


async def test_what_is_open_is_found_again_until_the_books_agree(books: Books) -> None:
    """However long ago the money moved: a run that says Balanced must be right."""
    order_id, ended = books.unknown(), await books.declined()
    payment = await books.charged(order_id)
    late = await books.charged(ended)
    assert len(await books.found(fix=False)) == 2
    later = replace(books, since=datetime.now(UTC) + timedelta(days=1))
    again = {d.order_id: d for d in await later.found(fix=False)}
    assert set(again) == {order_id, ended}
    assert all(d.since is not None and d.since < datetime.now(UTC) for d in again.values())
    assert await later.kinds() == [
        (Kind.CHARGED_NOT_COMPLETED, ended, True),
        (Kind.CHARGED_WITHOUT_ORDER, order_id, False),
    ]
    assert books.world.money(ended) == (late.amount, late.amount), "and mended, once somebody lets it"
    await books.refunded(payment, PRICE)
    assert await later.found() == []
    assert books.world.sql("SELECT 1 FROM discrepancy") == []


@pytest.mark.usefixtures("prefect_api")
async def test_an_accepted_discrepancy_is_reported_again_only_if_a_book_changes(books: Books) -> None:
    order_id = await books.completed()
    (payment,) = await gateway().find(order_id)
    await books.refunded(payment, Decimal("20.00"))
    with pytest.raises(NothingToAccept):
        await accept_discrepancies(order_id, "ann", "a goodwill refund")
    assert (await books.run()).name == "Discrepancies"
    state = await accept_discrepancies(f" {order_id} ", "ann", "a goodwill refund", return_state=True)
    assert (state.name, await state.aresult()) == ("Accepted", 1)
    with pytest.raises(NothingToAccept):
        accept_sync(order_id, accepted_by="ann", reason="twice")
    with pytest.raises(ResolutionIncomplete):
        accept_sync(order_id, accepted_by=" ", reason="nobody")
    assert (await books.run()).name == "Balanced"
    assert books.world.sql('SELECT order_id, action, "by", reason FROM desk_entry') == [
        (order_id, ACTION, "ann", "a goodwill refund")
    ]
    assert books.world.money(order_id) == (PRICE, 20), "no money was moved"
    await books.refunded(payment, Decimal("5.00"))
    assert await books.kinds() == [(Kind.REFUND_UNKNOWN_TO_US, order_id, False)]


@pytest.mark.parametrize(
    "order_id", ["../../x", "A" * 200, "🎈'; DROP TABLE customer_order; --", "a\r\nBcc: x", "100%", "a|b<i>"]
)
@pytest.mark.usefixtures("prefect_api")
async def test_hostile_ids_are_just_text(books: Books, order_id: str) -> None:
    hostile = f"{order_id[:150]}{books.unique}"
    await books.charged(hostile)
    assert await books.kinds() == [(Kind.CHARGED_WITHOUT_ORDER, hostile, False)]
    state = await books.run()
    assert state.name == "Discrepancies"


async def test_an_id_that_we_could_not_even_store_stops_nothing(books: Books) -> None:
    await books.charged(f"nul\0{books.unique}")
    await books.charged(books.unknown())
    assert (Kind.CHARGED_WITHOUT_ORDER, books.unknown(), False) in await books.kinds()


# -- stock


async def test_stock_that_does_not_add_up(books: Books) -> None:
    """Each planted in our own tables; all are reported, none is changed."""
    done, undone, other = (
        await books.completed(),
        await books.declined(),
        await books.completed("OTHER", product="PROD-004", price="249.00"),
    )
    back = await books.completed("BACK", product="LAPTOP", price="1299.00")
    sql, world = books.world.sql, books.world
    assert await books.found() == []
    sql("UPDATE product SET on_hand = on_hand - 3 WHERE id = 'PROD-001'")
    sql("UPDATE product SET reserved = 2 WHERE id = 'PROD-002'")
    sql("UPDATE reservation SET state = 'held', items = '{}' WHERE order_id = :id", id=undone)
    sql(
        "INSERT INTO reservation (order_id, id, state, items, expires_at) "
        "VALUES ('GHOST', 'RES-GHOST', 'held', '{}', now())"
    )
    sql(
        "INSERT INTO shipment (order_id, tracking_number, carrier, service, items) "
        "VALUES ('GHOST', 'T-1', 'c', 's', '{}'), (:id, 'T-2', 'c', 's', '{}')",
        id=undone,
    )
    sql("DELETE FROM shipment WHERE order_id = :id", id=other)
    sql("UPDATE shipment SET returned_at = now() WHERE order_id = :id", id=back)
    sql("UPDATE product SET on_hand = on_hand + 1 WHERE id = 'LAPTOP'")
    found = {(d.kind, d.order_id or d.product_id): (d.ours, d.theirs) for d in await books.found()}
    assert found == {
        (Kind.STOCK_ON_HAND, "PROD-001"): ("96 on hand", "100 received - 1 shipped = 99"),
        (Kind.STOCK_ON_HAND, "PROD-004"): ("24 on hand", "25 received - 0 shipped = 25"),
        (Kind.STOCK_RESERVED, "PROD-002"): ("2 reserved", "0 held by orders"),
        (Kind.RESERVATION_OF_ENDED_ORDER, undone): ("compensated", "holds "),
        (Kind.RESERVATION_WITHOUT_ORDER, "GHOST"): ("no such order", "holds "),
        (Kind.SHIPMENT_WITHOUT_ORDER, "GHOST"): ("no such order", "shipped as T-1"),
        (Kind.SHIPMENT_OF_UNCOMPLETED_ORDER, undone): ("compensated", "shipped as T-2"),
        (Kind.COMPLETED_WITHOUT_SHIPMENT, other): ("completed", "no shipment"),
        (Kind.COMPLETED_WITHOUT_SHIPMENT, back): ("completed", "no shipment"),
    }
    assert world.stock("PROD-001") == (96, 0)
    assert world.stock("LAPTOP") == (20, 0)
    assert world.shipments(done) == 1
    assert world.money(back) == (Decimal("1299.00"), 0), "paid for, and not at the customer's: for a person"


# -- many


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_api")
async def test_more_payments_than_a_page(books: Books, sandbox: Sandbox) -> None:
    """1 203 payments, 40 of them of orders that are in order;
    three pages, none left out, and at most one page in memory."""
    good = [an_order(f"GOOD-{books.unique}-{i}", product="PROD-002", price="29.99") for i in range(40)]
    await books.ended(*good)
    with closing(Ledger(sandbox.ledger)) as ledger:
        for i in range(1163):
            made = ledger.create(
                order_id=f"STRAY-{books.unique}-{i}",
                amount=100 + i,
                currency="USD",
                method="card",
                card_last4=None,
                token=None,
                key=None,
                installation=books.world.installation,
            )
            ledger.confirm(made.id, key=None)
    pages = [len(page) async for page in gateway().pages(books.since)]
    assert sum(pages) == 1203
    assert len(pages) == 3
    assert max(pages) == 500

    found = await books.found()
    assert Counter(d.kind for d in found) == {Kind.CHARGED_WITHOUT_ORDER: 1163}
    assert {d.order_id for d in found} == {f"STRAY-{books.unique}-{i}" for i in range(1163)}
    assert (
        sum((d.amount for d in found if d.amount), Decimal(0))
        == Decimal(sum(100 + i for i in range(1163))) / 100
    )

    state = await books.run()
    assert (state.type, state.name) == (StateType.FAILED, "Discrepancies")
    assert state.message == "1163 need a person: 1163 x charged without order"
    table = await artifact()
    assert len(table) == 501
    assert table[-1] == {"what": "and 663 more"}
    more = await events(MORE_EVENT, "shop.reconciliation", 1)
    assert more[0].payload["more"] == 1163 - MOST_EVENTS


# -- the flow


async def artifact() -> list[dict[str, Any]]:
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[ARTIFACT]))
        )
    newest = max(found, key=lambda each: each.created or datetime.min.replace(tzinfo=UTC))
    table: list[dict[str, Any]] = json.loads(str(newest.data))
    return table


async def events(name: str, resource: str, number: int) -> list[Any]:
    """Waits until so many are there."""
    found: list[Any] = []
    async with get_client() as client:

        async def there() -> bool:
            wanted = EventFilter(event=EventNameFilter(name=[name])).model_dump(
                mode="json", exclude_unset=True
            )
            answer = await client._client.post("/events/filter", json={"filter": wanted, "limit": 50})
            found[:] = [
                event
                for event in map(_Event, answer.raise_for_status().json()["events"])
                if event.resource == resource
            ]
            return len(found) >= number

        await until(there, 30, f"{number} events {name} of {resource}")
    return found


class _Event:
    def __init__(self, raw: dict[str, Any]) -> None:
        self.resource, self.payload = raw["resource"]["prefect.resource.id"], raw["payload"]


@pytest.mark.usefixtures("prefect_api")
async def test_no_time_is_left_out_when_nights_were_missed(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far back as two days, and as the last run that ended; not one that only began."""
    asked: list[datetime] = []

    async def note(report: Any, since: datetime, fix: bool) -> None:
        asked.append(since)

    monkeypatch.setattr(module, "compare_books", note)
    assert (await books.run()).name == "Balanced"
    now = datetime.now(UTC)
    later = now + timedelta(days=9)

    async def its_clock() -> datetime:
        return later

    monkeypatch.setattr(module, "database_time", its_clock)
    await books.run()
    assert timedelta(hours=1) < now - asked[-1] < timedelta(hours=2), (
        "nine days later: from a little before the last one"
    )


@pytest.mark.usefixtures("prefect_api")
async def test_a_run_that_left_something_out_is_not_the_last_one(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by hand, over an hour, or one that only looked."""
    asked: list[datetime] = []

    async def note(report: Any, since: datetime, fix: bool) -> None:
        asked.append(since)

    monkeypatch.setattr(module, "compare_books", note)
    # no other test's runs
    monkeypatch.setattr(
        module, "FlowFilterName", lambda any_: FlowFilterName(any_=[f"{any_[0]}-{books.unique}"])
    )
    ours = reconcile_payments.with_options(name=f"reconcile-payments-{books.unique}")
    begun = datetime.now(UTC)
    for parameters in ({"since_hours": 1}, {"fix": False}, {"since_hours": 1, "fix": False}):
        await ours(return_state=True, **parameters)
    await ours(return_state=True)
    assert timedelta(days=29) < begun - asked[-1] < timedelta(days=31), "as if none had been"
    await ours(return_state=True)
    assert timedelta(hours=47) < begun - asked[-1] < timedelta(hours=49)


@pytest.mark.usefixtures("prefect_api")
async def test_the_run_reports_its_result(books: Books) -> None:
    order_id = await books.declined()
    state = await books.run()
    assert (state.type, state.name, state.message) == (StateType.COMPLETED, "Balanced", "no discrepancy")
    assert await artifact() == [{"what": "no discrepancy"}]

    payment = await books.charged(order_id)
    state = await books.run(fix=False)
    assert (state.type, state.name) == (StateType.FAILED, "Discrepancies")
    state = await books.run()
    assert (state.type, state.name, state.message) == (
        StateType.COMPLETED,
        "Repaired",
        "1 repaired: 1 x charged not completed",
    )
    assert books.world.money(order_id) == (PRICE, PRICE)
    (row,) = await artifact()
    assert row == {
        "what": "charged not completed",
        "order or product": order_id,
        "we say": "compensated: 0.00 USD charged",
        "they say": "999.99 USD charged",
        "amount": "999.99 USD",
        "payments": payment.id,
        "since": "",
        "now": "repaired",
    }
    published = await events(EVENT, f"shop.order.{order_id}", 2)
    assert sorted(event.payload["mended"] for event in published) == [False, True]
    assert {
        (event.payload["kind"], event.payload["amount"], event.payload["currency"]) for event in published
    } == {("charged_not_completed", "999.99", "USD")}

    again = await books.completed()
    await books.charged(again)
    state = await books.run()
    assert (state.type, state.name, state.message) == (
        StateType.FAILED,
        "Discrepancies",
        "1 need a person: 1 x charged more than once",
    )


# -- any mix

STATUSES = st.sampled_from(list(PaymentStatus))
AMOUNTS = st.sampled_from([Decimal(10), Decimal(20)])
CURRENCIES = st.sampled_from(["USD", "USD", "USD", "EUR"])
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@st.composite
def a_payment(draw: st.DrawFn) -> dict[str, Any]:
    status, amount = draw(STATUSES), draw(AMOUNTS)
    refunded = (
        draw(st.sampled_from([Decimal(0), Decimal(0), amount / 2, amount]))
        if status is PaymentStatus.SUCCEEDED
        else Decimal(0)
    )
    return {"status": status, "amount": amount, "amount_refunded": refunded, "currency": draw(CURRENCIES)}


@st.composite
def an_end(draw: st.DrawFn) -> dict[str, Any] | None:
    if draw(st.integers(0, 5)) == 0:
        return None  # we do not know it
    charged = draw(st.sampled_from([Decimal(0), Decimal(10), Decimal(20)]))
    refunded = draw(st.sampled_from([Decimal(0), charged]))
    outcome = draw(st.sampled_from([None, *Outcome]))
    at_risk = (
        draw(st.sampled_from([Decimal(0), Decimal(10)])) if outcome is Outcome.NEEDS_ATTENTION else Decimal(0)
    )
    currency = draw(CURRENCIES)
    return {
        "outcome": outcome,
        "charged": charged,
        "refunded": refunded,
        "at_risk": at_risk,
        "currency": currency,
        "total": draw(AMOUNTS),
    }


class Recorded:
    """A gateway with scripted answers."""

    def __init__(self, payments: list[Payment]) -> None:
        self.payments = payments

    async def pages(self, since: datetime) -> AsyncIterator[list[Payment]]:
        mine = [payment for payment in self.payments if payment.moved_at >= since]
        for start in range(0, len(mine), 3):
            yield mine[start : start + 3]

    async def find(self, order_id: str) -> list[Payment]:
        return [payment for payment in self.payments if payment.order_id == order_id]


def _payment(order_id: str, number: int, fields: dict[str, Any]) -> Payment:
    paid = fields["status"] is PaymentStatus.SUCCEEDED
    refund = Refund(
        f"r{number}", f"{order_id}-{number}", fields["amount_refunded"], fields["currency"], LONG_AGO
    )
    return Payment(
        id=f"{order_id}-{number}",
        order_id=order_id,
        fee=Decimal(0),
        method="card",
        created_at=LONG_AGO,
        transaction_id="t" if paid else None,
        charged_at=LONG_AGO if paid else None,
        refunds=(refund,) if fields["amount_refunded"] else (),
        **fields,
    )


@given(orders=st.lists(st.tuples(an_end(), st.lists(a_payment(), max_size=3)), min_size=1, max_size=25))
@rounds(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.slow
async def test_the_coarse_comparison_misses_nothing_that_a_close_look_finds(
    world: World, orders: list[tuple[dict[str, Any] | None, list[dict[str, Any]]]]
) -> None:
    """Whatever both sides say, the set-based comparison of pages finds the same as judging every single
    order."""
    for table in ("customer_order", "discrepancy"):
        world.sql(f"DELETE FROM {table}")
    payments: list[Payment] = []
    expected: list[tuple[str, Kind, Decimal | None]] = []
    rows = []
    for number, (end, paid) in enumerate(orders):
        order_id = f"O-{number}"
        mine = [_payment(order_id, n, fields) for n, fields in enumerate(paid)]
        payments += mine
        ours = None
        if end is not None:
            finished = LONG_AGO if end["outcome"] else None
            total = end["total"] if end["outcome"] is Outcome.COMPLETED else None
            ours = OurOrder(order_id, finished_at=finished, settled=Decimal(0), **{**end, "total": total})
            rows.append(
                {
                    **end,
                    "id": order_id,
                    "finished": finished,
                    "content": json.dumps({"total_amount": str(end["total"])}),
                }
            )
        expected += [
            (order_id, d.kind, d.amount) for d in discrepancies_of(order_id, ours, mine, settled_before=NEVER)
        ]
    for row in rows:
        world.sql(
            "INSERT INTO customer_order (id, content, fingerprint, submitted_at, finished_at, outcome, "
            "currency, amount_charged, amount_refunded, amount_at_risk) "
            "VALUES (:id, CAST(:content AS jsonb), 'f', '2020-01-01', :finished, :outcome, "
            ":currency, :charged, :refunded, :at_risk)",
            **{key: value for key, value in row.items() if key != "total"},
        )
    found = [
        (d.order_id, d.kind, d.amount)
        async for d in reconcile(Recorded(payments), LONG_AGO, fix=False)  # type: ignore[arg-type]
        if d.kind is not Kind.COMPLETED_WITHOUT_SHIPMENT
    ]
    assert sorted(found, key=str) == sorted(expected, key=str)


Plant = Callable[[Books, str], Awaitable[object]]


async def _nothing(books: Books, order_id: str) -> None:
    """An order as it should be."""


PLANTS: dict[str, Plant] = {
    "nothing": _nothing,
    "charged": lambda books, order_id: books.charged(order_id, Decimal("9.99")),
    "twice": lambda books, order_id: asyncio.gather(
        *(books.charged(order_id, Decimal("9.99")) for _ in range(2))
    ),
    "another amount": lambda books, order_id: books.charged(order_id, Decimal(5)),
    "created": lambda books, order_id: books.created(order_id),
}


@given(
    plants=st.lists(
        st.tuples(st.sampled_from(["good", "declined"]), st.sampled_from(sorted(PLANTS))),
        min_size=1,
        max_size=8,
    )
)
@rounds(
    max_examples=5,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_after_repairs_only_what_a_person_must_see_is_left(
    books: Books, plants: list[tuple[str, str]]
) -> None:
    """Any mix: an undone order ends with nothing kept but what a person must see, a completed one never loses
    its charge, and nothing can still be charged."""
    books.world.sql("DELETE FROM discrepancy")  # the example before
    mine = replace(books, since=datetime.now(UTC), unique=uuid.uuid4().hex[:8])
    orders = {f"{end}-{mine.unique}-{i}": (end, plant) for i, (end, plant) in enumerate(plants)}
    cards = {"good": "1234", "declined": "0000"}
    await mine.ended(
        *(an_order(i, product="PROD-002", price="9.99", card=cards[end]) for i, (end, _) in orders.items())
    )
    for order_id, (_, plant) in orders.items():
        await PLANTS[plant](mine, order_id)
    found = await mine.found()
    assert {d.order_id for d in found} == {
        order_id for order_id, (_, plant) in orders.items() if plant != "nothing"
    }
    left = [d for d in found if not d.repaired]
    surplus = {"twice", "another amount"}
    completed = {i for i, (end, plant) in orders.items() if end == "good" and plant in {"charged", *surplus}}
    in_review = {i for i, (end, plant) in orders.items() if end == "declined" and plant in surplus}
    assert {d.order_id for d in left} == completed | in_review
    assert in_review <= {case.order_id for case in read_queue_sync().cases}
    assert {d.order_id for d in await mine.found()} == completed, (
        "what is under review agrees with the gateway"
    )
    for order_id, (end, plant) in orders.items():
        kept = sum(
            p["amount"] - p["refunded"] for p in books.world.ledger(order_id) if p["status"] == "succeeded"
        )
        if end == "good":
            assert kept >= 999
        else:
            assert kept == {"twice": 999, "another amount": 500}.get(plant, 0), (
                "the order's amount goes back, no more and no other"
            )
        if order_id not in {d.order_id for d in left}:
            assert "created" not in {payment["status"] for payment in books.world.ledger(order_id)}
