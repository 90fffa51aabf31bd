"""Orders whose money others take: paid already, in part, by transfer, on delivery, or nothing at all. The
gateway's ledger says what was charged; the books say that no money is missing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import httpx
import pytest

from flows.order_run import finish_reopened
from flows.order_saga import ORDER_SAGA
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from saga import claims, manual
from saga.database import transaction
from saga.finish import postpone
from saga.lease import lease
from shop.orders import intake
from shop.orders.order import EXAMPLE
from shop.orders.outcomes import OrderOutcome, Outcome
from shop.orders.report import read
from shop.orders.store import ORDERS
from shop.payments.errors import NotReceivable, PaymentAwaited, PaymentGatewayError
from shop.payments.gateway import Payment
from shop.payments.gateways import gateway
from shop.payments.recording import Received, read_incoming, record_rest
from shop.payments.recording import record as record_one
from shop.reconciliation.books import Books, gateway_totals, read_books
from shop.reconciliation.reconcile import compare_order, reconcile
from shop.retention.customers import erase_customers
from shop.review.cancel import ask_to_cancel
from shop.review.errors import AmountChanged, NotRetryable, RetryInvalid
from shop.review.preview import preview_cancel
from shop.review.resolution import Decision, decision, resolve
from shop.review.retry import NewMeans, retry
from shop.settings import settings
from tests.integration.world import World, an_order

PRICE = Decimal("999.99")
_EVER = datetime(1970, 1, 1, tzinfo=UTC)


async def record(order_id: str, amount: Decimal, *, reference: str, recorded_by: str) -> Received:
    given = {"order_id": order_id, "amount": amount, "reference": reference, "recorded_by": recorded_by}
    return await record_one(read_incoming(given))


async def outcome_of(order: dict[str, Any]) -> OrderOutcome:
    await process_order(order, return_state=True)
    return ended(order["id"])


async def reopen(order_id: str) -> None:
    async with transaction() as tx:
        await tx.run_sync(manual.reopen, ORDERS, [order_id])


def ended(order_id: str) -> OrderOutcome:
    return read([order_id])[order_id]


def paid(order_id: str, reference: str | None = None, **fields: Any) -> dict[str, Any]:
    info = {"method": "already_paid", "reference": reference}
    return an_order(order_id, payment_info=info, **fields)


def paid_in_the_shop(saga: World, unique: str, amount: Decimal = PRICE, *, confirmed: bool = True) -> str:
    """Somebody pays at the gateway, in the shop's own checkout."""
    return saga.pay(f"checkout-{unique}", amount, confirmed=confirmed)


async def books(saga: World) -> Books:
    """Our books against the gateway's own totals of this installation's payments."""
    found = read_books(saga.database_url, await gateway_totals(gateway()))
    assert found.balanced, found.rows
    return found


async def assert_all_is_well(saga: World, order_id: str) -> None:
    await books(saga)
    assert await compare_order(order_id, gateway(), datetime.max.replace(tzinfo=UTC), fix=False) == []
    assert [each async for each in reconcile(gateway(), _EVER, fix=False)] == []


# -- paid already


async def test_an_order_that_is_paid_already_is_not_charged(saga: World, unique: str) -> None:
    order_id = f"PAID-{unique}"
    outcome = await outcome_of(paid(order_id, "paypal-77", customer_id=None))
    assert outcome.outcome is Outcome.COMPLETED
    assert (outcome.amount_charged, outcome.amount_elsewhere) == (0, PRICE)
    assert saga.ledger(order_id) == []
    assert saga.stock("PROD-001") == (99, 0)
    assert saga.shipments(order_id) == 1
    assert saga.mail_kinds(order_id) == {"confirmation"}
    await assert_all_is_well(saga, order_id)


async def test_the_gateway_s_own_payment_becomes_the_order_s(saga: World, unique: str) -> None:
    order_id, payment_id = f"OURS-{unique}", paid_in_the_shop(saga, unique)
    outcome = await outcome_of(paid(order_id, payment_id))
    assert outcome.outcome is Outcome.COMPLETED
    assert (outcome.amount_charged, outcome.amount_elsewhere) == (PRICE, 0)
    assert saga.charges(f"checkout-{unique}") == 1
    assert saga.ledger(order_id) == []
    await assert_all_is_well(saga, order_id)


async def test_a_compensation_refunds_through_the_reference(saga: World, unique: str) -> None:
    order_id, payment_id = f"BACK-{unique}", paid_in_the_shop(saga, unique)
    outcome = await outcome_of(paid(order_id, payment_id, country="AQ"))  # the carrier refuses
    assert outcome.outcome is Outcome.COMPENSATED
    assert (outcome.amount_charged, outcome.amount_refunded) == (PRICE, PRICE)
    assert saga.money(f"checkout-{unique}") == (PRICE, PRICE)
    assert saga.mail_kinds(order_id) == {"refund"}
    assert saga.stock("PROD-001") == (100, 0)
    await assert_all_is_well(saga, order_id)


async def test_money_that_is_out_of_stock_goes_back_too(saga: World, unique: str) -> None:
    """The payment step has not begun, but the customer has paid."""
    price = 101 * Decimal(10)
    order_id, payment_id = f"NONE-{unique}", paid_in_the_shop(saga, unique, price)
    line = {"product_id": "PROD-001", "quantity": 101, "price": "10"}
    outcome = await outcome_of(paid(order_id, payment_id, items=[line], total_amount=str(price)))
    assert (outcome.amount_charged, outcome.amount_refunded) == (price, price)
    assert saga.money(f"checkout-{unique}") == (price, price)
    assert outcome.outcome in {Outcome.OUT_OF_STOCK, Outcome.COMPENSATED}
    await assert_all_is_well(saga, order_id)


async def test_money_that_the_gateway_never_had_goes_to_review(saga: World, unique: str) -> None:
    order_id = f"HAND-{unique}"
    outcome = await outcome_of(paid(order_id, "paypal-78", country="AQ"))
    assert outcome.outcome is Outcome.NEEDS_ATTENTION
    assert (outcome.amount_charged, outcome.amount_at_risk, outcome.amount_elsewhere) == (0, PRICE, PRICE)
    assert saga.stock("PROD-001") == (100, 0)
    assert saga.sql("SELECT next_retry_at FROM attention") == [(None,)], "trying again cannot help"
    await assert_all_is_well(saga, order_id)
    await resolve(decision(order_id, "refunded_by_hand", resolved_by="Kim", reference="PP-1"))
    settled = await finish_reopened(order_id)
    assert settled.outcome is Outcome.COMPENSATED
    assert (settled.amount_charged, settled.amount_at_risk, settled.amount_elsewhere) == (0, 0, PRICE)
    assert saga.mail_kinds(order_id) == {"refund"}
    await assert_all_is_well(saga, order_id)


async def test_a_paid_order_that_is_not_valid_can_be_corrected_and_retried(saga: World, unique: str) -> None:
    order_id, payment_id = f"FIX-{unique}", paid_in_the_shop(saga, unique)
    outcome = await outcome_of(paid(order_id, payment_id, product=f"NEW-{unique}"))
    assert outcome.outcome is Outcome.NEEDS_ATTENTION
    assert outcome.amount_at_risk == PRICE
    assert saga.money(f"checkout-{unique}") == (PRICE, 0), "a person decides"
    saga.receive(f"NEW-{unique}", 1, name="New")
    assert (await retry(order_id)).status == "accepted"
    corrected = await finish_reopened(order_id)
    assert corrected.outcome is Outcome.COMPLETED
    assert (corrected.amount_charged, corrected.amount_at_risk) == (PRICE, 0)
    assert saga.money(f"checkout-{unique}") == (PRICE, 0)
    assert saga.stock(f"NEW-{unique}") == (0, 0)
    await assert_all_is_well(saga, order_id)


def review_queue(saga: World) -> list[str]:
    return [row[0] for row in saga.sql("SELECT order_id FROM attention WHERE resolved_at IS NULL")]


@pytest.mark.parametrize(
    "means", [NewMeans(token="tok_1"), NewMeans(method="credit_card", card_last4="1234")]
)
async def test_what_is_paid_already_is_not_charged_by_a_retry(
    saga: World, unique: str, means: NewMeans
) -> None:
    order_id, payment_id = f"TWICE-{unique}", paid_in_the_shop(saga, unique)
    await outcome_of(paid(order_id, payment_id, product=f"NEW-{unique}"))
    saga.receive(f"NEW-{unique}", 1, name="New")
    with pytest.raises(RetryInvalid):
        await retry(order_id, means)
    await retry(order_id)
    assert (await finish_reopened(order_id)).outcome is Outcome.COMPLETED
    assert saga.ledger(order_id) == []
    assert saga.money(f"checkout-{unique}") == (PRICE, 0)


async def test_only_a_person_decides_about_a_paid_order_that_is_not_valid(saga: World, unique: str) -> None:
    """Also after a worker died between the refusal and the outcome, and another one compensates again."""
    order_id, payment_id = f"AGAIN-{unique}", paid_in_the_shop(saga, unique)
    await outcome_of(paid(order_id, payment_id, product=f"NEW-{unique}"))
    for _ in range(2):
        await reopen(order_id)
        assert (await finish_reopened(order_id)).outcome is Outcome.NEEDS_ATTENTION
        assert saga.money(f"checkout-{unique}") == (PRICE, 0)
    await resolve(decision(order_id, "retry_now", resolved_by="Kim"))
    assert (await finish_reopened(order_id)).outcome is Outcome.REJECTED
    assert saga.money(f"checkout-{unique}") == (PRICE, PRICE)
    assert review_queue(saga) == []


@pytest.mark.parametrize("total", ["1e15", "1e100", "-5", "NaN", [1], {"x": 1}, "1e999999999", None])
async def test_an_amount_that_cannot_be_read_blocks_nothing(saga: World, unique: str, total: object) -> None:
    order_id = f"ODD-{unique}"
    parts = [{"method": "gift_card", "amount": total}]
    for order in (paid(order_id, total_amount=total), an_order(f"{order_id}-2", part_payments=parts)):
        await outcome_of(order)
        outcome = ended(order["id"])
        assert outcome.outcome is Outcome.NEEDS_ATTENTION
        assert outcome.amount_at_risk == 0
    await books(saga)


@pytest.mark.parametrize("method", [["bank_transfer"], {"x": 1}, 5])
async def test_a_method_of_another_type_blocks_nothing(saga: World, unique: str, method: object) -> None:
    assert (await outcome_of(an_order(unique, payment_info={"method": method}))).outcome is Outcome.REJECTED


async def test_another_shop_s_payment_pays_nothing_here(saga: World, unique: str) -> None:
    order_id = f"OTHERS-{unique}"
    body = {"order_id": "THEIRS", "amount": 99999, "currency": "USD", "method": "credit_card"}
    body |= {"card_last4": "1234", "installation": f"another-{unique}"}
    answer = httpx.post(f"{saga.gateway_url}/v1/payments", json=body, timeout=10).raise_for_status()
    theirs = str(answer.json()["id"])
    httpx.post(f"{saga.gateway_url}/v1/payments/{theirs}/confirm", timeout=10).raise_for_status()
    outcome = await outcome_of(paid(order_id, theirs))
    assert (outcome.outcome, saga.shipments(order_id)) == (Outcome.COMPENSATED, 0)
    payment = httpx.get(f"{saga.gateway_url}/v1/payments/{theirs}", timeout=10).json()
    assert (payment["status"], payment["refunds"]) == ("succeeded", [])


async def test_or_its_money_can_be_refunded(saga: World, unique: str) -> None:
    order_id, payment_id = f"GIVE-{unique}", paid_in_the_shop(saga, unique)
    outcome = await outcome_of(paid(order_id, payment_id, total_amount="1"))
    assert outcome.outcome is Outcome.NEEDS_ATTENTION
    assert saga.money(f"checkout-{unique}") == (PRICE, 0)
    await resolve(decision(order_id, "refunded_by_hand", resolved_by="Kim", reference="B-1"))
    settled = await finish_reopened(order_id)
    assert (settled.outcome, settled.amount_at_risk) == (Outcome.REJECTED, 0)
    await books(saga)


async def test_retrying_the_compensation_of_a_rejected_order_refunds_it(saga: World, unique: str) -> None:
    order_id, payment_id = f"AUTO-{unique}", paid_in_the_shop(saga, unique)
    await outcome_of(paid(order_id, payment_id, product=f"NEW-{unique}"))
    await resolve(decision(order_id, "retry_now", resolved_by="Kim"))
    settled = await finish_reopened(order_id)
    assert settled.outcome is Outcome.REJECTED
    assert saga.money(f"checkout-{unique}") == (PRICE, PRICE)
    assert saga.mail_kinds(order_id) == {"refund"}
    await assert_all_is_well(saga, order_id)


async def test_the_decision_to_refund_outlives_a_gateway_that_is_unavailable(
    saga: World, unique: str
) -> None:
    order_id, payment_id = f"DOWN-{unique}", paid_in_the_shop(saga, unique)
    await outcome_of(paid(order_id, payment_id, product=f"NEW-{unique}"))
    await resolve(decision(order_id, "retry_now", resolved_by="Kim"))
    saga.misbehave(error_rate=1)
    try:
        await process_pending_orders(consumer_seconds=0)
    finally:
        saga.misbehave(error_rate=0)
    assert ended(order_id).outcome is not Outcome.REJECTED
    assert saga.money(f"checkout-{unique}") == (PRICE, 0)
    saga.sql("UPDATE customer_order SET not_before = NULL WHERE outcome IS NULL")
    await reopen(order_id)
    assert (await finish_reopened(order_id)).outcome is Outcome.REJECTED
    assert saga.money(f"checkout-{unique}") == (PRICE, PRICE)


async def test_a_payment_that_was_partly_refunded_does_not_pay_the_order(saga: World, unique: str) -> None:
    payment_id = paid_in_the_shop(saga, unique, PRICE + 100)
    body = {"payment_id": payment_id, "amount": 10_000, "currency": "USD"}
    httpx.post(f"{saga.gateway_url}/v1/refunds", json=body, timeout=10).raise_for_status()
    outcome = await outcome_of(paid(f"PARTLY-{unique}", payment_id))
    assert outcome.outcome is Outcome.NEEDS_ATTENTION
    assert saga.shipments(f"PARTLY-{unique}") == 0


@pytest.mark.parametrize("amount", ["999.98", "1000.00", "0.01"])
async def test_a_payment_of_another_amount_does_not_pay_the_order(
    saga: World, unique: str, amount: str
) -> None:
    order_id, payment_id = f"LESS-{unique}", paid_in_the_shop(saga, unique, Decimal(amount))
    outcome = await outcome_of(paid(order_id, payment_id))
    assert outcome.outcome is Outcome.NEEDS_ATTENTION
    assert outcome.amount_at_risk == Decimal(amount)
    assert saga.shipments(order_id) == 0
    assert saga.stock("PROD-001") == (100, 0)


async def test_a_payment_that_was_never_confirmed_pays_nothing(saga: World, unique: str) -> None:
    order_id, payment_id = f"OPEN-{unique}", paid_in_the_shop(saga, unique, confirmed=False)
    outcome = await outcome_of(paid(order_id, payment_id))
    assert outcome.outcome is Outcome.COMPENSATED
    assert saga.money(f"checkout-{unique}") == (0, 0)
    assert saga.shipments(order_id) == 0


async def test_one_payment_pays_one_order(saga: World, unique: str) -> None:
    payment_id = paid_in_the_shop(saga, unique)
    orders = [f"ONE-{unique}", f"TWO-{unique}", f"THREE-{unique}"]
    outcomes = await asyncio.gather(*(outcome_of(paid(each, payment_id)) for each in orders))
    assert sorted(str(each.outcome) for each in outcomes) == ["compensated", "compensated", "completed"]
    assert saga.money(f"checkout-{unique}") == (PRICE, 0)
    assert saga.stock("PROD-001") == (99, 0)
    await books(saga)


async def test_a_payment_of_another_order_of_ours_pays_no_other(saga: World, unique: str) -> None:
    await outcome_of(an_order(f"FIRST-{unique}"))
    (payment,) = saga.ledger(f"FIRST-{unique}")
    outcome = await outcome_of(paid(f"SECOND-{unique}", payment["id"]))
    assert outcome.outcome is Outcome.COMPENSATED
    assert saga.money(f"FIRST-{unique}") == (PRICE, 0)
    await books(saga)


# -- part payments


async def test_only_the_rest_is_charged(saga: World, unique: str) -> None:
    order_id = f"PART-{unique}"
    parts = [{"method": "gift_card", "amount": "300", "reference": "GC-1"}]
    outcome = await outcome_of(an_order(order_id, part_payments=parts))
    assert outcome.outcome is Outcome.COMPLETED
    assert (outcome.amount_charged, outcome.amount_elsewhere) == (Decimal("699.99"), 300)
    assert saga.money(order_id) == (Decimal("699.99"), 0)
    text = saga.mail(order_id, "confirmation")
    assert "-300.00" in text
    assert "699.99" in text
    await assert_all_is_well(saga, order_id)


async def test_a_part_payment_goes_back_by_hand_and_the_rest_by_the_gateway(saga: World, unique: str) -> None:
    order_id = f"PARTS-{unique}"
    parts = [{"method": "store_credit", "amount": "300"}]
    outcome = await outcome_of(an_order(order_id, part_payments=parts, country="AQ"))
    assert outcome.outcome is Outcome.NEEDS_ATTENTION
    assert outcome.amount_at_risk == 300
    assert saga.money(order_id) == (Decimal("699.99"), Decimal("699.99"))
    await assert_all_is_well(saga, order_id)
    await resolve(decision(order_id, "refunded_by_hand", resolved_by="Kim", reference="SC-1"))
    settled = await finish_reopened(order_id)
    assert (settled.outcome, settled.amount_charged) == (Outcome.COMPENSATED, Decimal("699.99"))
    await assert_all_is_well(saga, order_id)


async def test_part_payments_may_pay_all_of_it(saga: World, unique: str) -> None:
    order_id = f"ALL-{unique}"
    parts = [{"method": "gift_card", "amount": "999.99"}]
    outcome = await outcome_of(an_order(order_id, part_payments=parts, payment_info=None))
    assert (outcome.outcome, outcome.amount_charged) == (Outcome.COMPLETED, 0)
    assert saga.ledger(order_id) == []
    await assert_all_is_well(saga, order_id)


# -- nothing to pay, nothing to ship


async def test_a_total_of_zero_needs_no_payment(saga: World, unique: str) -> None:
    order_id = f"FREE-{unique}"
    outcome = await outcome_of(an_order(order_id, price="0", payment_info=None))
    assert (outcome.outcome, outcome.amount_charged) == (Outcome.COMPLETED, 0)
    result = saga.journal(order_id)["process_payment"].result
    assert result["payment_status"] == "not_needed"
    assert result["why"]
    assert saga.ledger(order_id) == []
    assert saga.stock("PROD-001") == (99, 0)
    assert saga.mail_kinds(order_id) == {"confirmation"}
    await assert_all_is_well(saga, order_id)


def digital(order_id: str, **fields: Any) -> dict[str, Any]:
    line = {"product_id": "PROD-001", "quantity": 2, "price": "10", "name": "E-book", "digital": True}
    return an_order(order_id, items=[line], total_amount="20", shipping_info=None, **fields)


@pytest.mark.parametrize("lane", ["own run", "batch"])
async def test_digital_goods_are_confirmed_and_not_shipped(saga: World, unique: str, lane: str) -> None:
    order_id = f"DIGITAL-{unique}"
    if lane == "batch":
        intake.submit([digital(order_id), an_order(f"BOX-{unique}")])
        await process_pending_orders(consumer_seconds=0)
        assert saga.shipments(f"BOX-{unique}") == 1
    else:
        await outcome_of(digital(order_id))
    assert ended(order_id).outcome is Outcome.COMPLETED
    assert saga.money(order_id) == (20, 0)
    assert saga.shipments(order_id) == 0
    assert saga.stock("PROD-001") == (100 if lane == "own run" else 99, 0)
    assert saga.mail_kinds(order_id) == {"confirmation"}
    text = saga.mail(order_id, "confirmation")
    assert "20.00" in text
    assert "racking number" not in text
    await assert_all_is_well(saga, order_id)


async def test_a_digital_order_can_be_returned(saga: World, unique: str) -> None:
    order_id = f"UNDO-{unique}"
    await outcome_of(digital(order_id))
    await ask_to_cancel(order_id, reason="not wanted", requested_by="Kim", started_by=None)
    outcome = await finish_reopened(order_id)
    assert outcome.outcome is Outcome.COMPENSATED
    assert saga.money(order_id) == (20, 20)
    await assert_all_is_well(saga, order_id)


async def test_a_box_and_an_e_book_in_one_order(saga: World, unique: str) -> None:
    order_id = f"BOTH-{unique}"
    lines = [
        {"product_id": "PROD-001", "quantity": 1, "price": "10", "digital": True},
        {"product_id": "PROD-002", "quantity": 3, "price": "10"},
    ]
    outcome = await outcome_of(an_order(order_id, items=lines, total_amount="40"))
    assert outcome.outcome is Outcome.COMPLETED
    assert saga.sql("SELECT items FROM shipment WHERE order_id = :id", id=order_id) == [({"PROD-002": 3},)]
    await assert_all_is_well(saga, order_id)


# -- by transfer, on delivery


async def test_a_transfer_is_awaited_and_then_the_order_resumes(saga: World, unique: str) -> None:
    order_id = f"WIRE-{unique}"
    state = await process_order(
        an_order(order_id, payment_info={"method": "bank_transfer"}), return_state=True
    )
    assert (state.name, ended(order_id).outcome) == ("AwaitingPayment", None), "no run waits for days"
    assert saga.order(order_id).waits_for == PaymentAwaited.code
    assert saga.stock("PROD-001") == (100, 1), "it keeps its stock"
    first = await record(order_id, Decimal(900), reference="T-1", recorded_by="bank")
    assert (first.new, first.total_received) == (True, 900)
    assert not (await record(order_id, Decimal(900), reference="T-1", recorded_by="bank")).new
    with pytest.raises(NotReceivable):
        await record(order_id, Decimal(901), reference="T-1", recorded_by="bank")
    await process_pending_orders(consumer_seconds=0)
    assert ended(order_id).outcome is None, "a part is not enough"
    await record(order_id, Decimal("99.99"), reference="T-2", recorded_by="bank")
    await process_pending_orders(consumer_seconds=0)
    outcome = ended(order_id)
    assert (outcome.outcome, outcome.amount_elsewhere) == (Outcome.COMPLETED, PRICE)
    assert saga.ledger(order_id) == []
    assert saga.shipments(order_id) == 1
    await assert_all_is_well(saga, order_id)


@pytest.mark.parametrize("method", ["bank_transfer", "cash_on_delivery"])
async def test_what_exceeds_the_amount_due_is_to_be_refunded(saga: World, unique: str, method: str) -> None:
    order_id = f"MORE-{unique}"
    intake.submit([an_order(order_id, payment_info={"method": method})])
    early = await record(order_id, PRICE + 1, reference="T-1", recorded_by="bank")
    assert (early.overpaid, bool(early.to_do)) == (1, True)
    await process_pending_orders(consumer_seconds=0)
    late = await record(order_id, Decimal(100), reference="T-2", recorded_by="bank")
    assert (late.outcome, late.overpaid, late.total_received) == (Outcome.COMPLETED, 101, PRICE + 101)
    (row,) = [row for row in (await books(saga)).rows if row.ours == "101.00 USD"]
    assert row.ok is None, "it is somebody's to do, and no contradiction"
    with pytest.raises(NotReceivable):
        await record(order_id, Decimal(-102), reference="BACK-1", recorded_by="ann")
    for _ in range(2):
        back = await record(order_id, Decimal(-101), reference="BACK-1", recorded_by="ann")
        assert (back.overpaid, back.total_received) == (0, PRICE)
    assert [row for row in (await books(saga)).rows if "give back" in row.source] == []
    assert await cost(order_id) == (0, PRICE), "what a return gives back"


async def test_money_is_not_refunded_before_it_was_received(saga: World, unique: str) -> None:
    order_id = f"NONE-{unique}"
    intake.submit([an_order(order_id, payment_info={"method": "bank_transfer"})])
    with pytest.raises(NotReceivable):
        await record(order_id, Decimal(-1), reference="BACK-1", recorded_by="ann")
    await record(order_id, PRICE, reference="T-1", recorded_by="bank")
    with pytest.raises(NotReceivable):
        await record(order_id, Decimal(-1), reference="BACK-1", recorded_by="ann")


async def test_a_transfer_reported_by_the_shop_counts_once(saga: World, unique: str) -> None:
    """The merchant marks the order as paid, and the bank's file has the transfer, too."""
    order_id = f"BOTH-{unique}"
    intake.submit([an_order(order_id, payment_info={"method": "bank_transfer"})])
    recorded = await record_rest(order_id, "shopify")
    assert recorded is not None
    assert recorded.total_received == PRICE
    for reference, amount in (("T-1", PRICE - 400), ("T-2", Decimal(400))):
        again = await record(order_id, amount, reference=reference, recorded_by="bank")
        assert (again.total_received, again.overpaid) == (PRICE, 0)
        assert await record_rest(order_id, "shopify") is None
    assert (await record(order_id, Decimal(5), reference="T-3", recorded_by="bank")).overpaid == 5


async def test_money_that_comes_while_a_worker_has_the_order_wakes_it_at_once(
    saga: World, unique: str
) -> None:
    """The worker looked for it a minute ago, and postpones the order only now, with its batch."""
    order_id = f"SLOW-{unique}"
    intake.submit([an_order(order_id, payment_info={"method": "bank_transfer"})])
    async with lease(ORDERS) as mine:
        async with transaction() as tx:
            (order,) = await claims.claim(tx, ORDERS, mine, most=1, ids=[order_id])
        await record(order_id, PRICE, reference="T-1", recorded_by="bank")
        order.claimed_at -= 60
        saga.sql("UPDATE received_payment SET recorded_at = recorded_at - interval '30 seconds'")
        await postpone([order], 3600, PaymentAwaited("not received yet", 3600))
    pause = saga.sql("SELECT extract(epoch FROM not_before - now()) FROM customer_order")[0][0]
    assert pause <= 1, "the next claim sees the money"


async def test_an_order_that_awaits_its_money_can_be_cancelled(saga: World, unique: str) -> None:
    order_id = f"STOP-{unique}"
    await process_order(an_order(order_id, payment_info={"method": "bank_transfer"}), return_state=True)
    await ask_to_cancel(order_id, reason="changed my mind", requested_by="Kim", started_by=None)
    outcome = await finish_reopened(order_id)
    assert (outcome.outcome, outcome.amount_at_risk) == (Outcome.COMPENSATED, 0)
    assert saga.stock("PROD-001") == (100, 0)
    await assert_all_is_well(saga, order_id)


async def test_a_transfer_that_does_not_come_is_given_up(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id = f"LATE-{unique}"
    intake.submit([an_order(order_id, payment_info={"method": "bank_transfer"})])
    saga.sql("UPDATE customer_order SET submitted_at = now() - interval '15 days'")
    await record(order_id, Decimal(400), reference="T-1", recorded_by="bank")
    await process_pending_orders(consumer_seconds=0)
    outcome = ended(order_id)
    assert outcome.outcome is Outcome.NEEDS_ATTENTION
    assert (outcome.amount_at_risk, outcome.amount_elsewhere) == (400, 400)
    assert saga.stock("PROD-001") == (100, 0)
    await assert_all_is_well(saga, order_id)


async def test_cash_on_delivery_ships_first(saga: World, unique: str) -> None:
    order_id = f"CASH-{unique}"
    outcome = await outcome_of(an_order(order_id, payment_info={"method": "cash_on_delivery"}))
    assert (outcome.outcome, outcome.amount_elsewhere) == (Outcome.COMPLETED, PRICE)
    assert saga.shipments(order_id) == 1
    (row,) = [row for row in (await books(saga)).rows if row.name == "paid elsewhere"]
    assert "999.99" in row.source
    await record(order_id, PRICE, reference="DHL-7", recorded_by="carrier")
    (row,) = [row for row in (await books(saga)).rows if row.name == "paid elsewhere"]
    assert "999.99" not in row.source
    await assert_all_is_well(saga, order_id)


@pytest.mark.parametrize("collected", [False, True])
async def test_a_return_gives_back_what_was_collected(saga: World, unique: str, collected: bool) -> None:
    order_id = f"REFUSED-{unique}"
    await outcome_of(an_order(order_id, payment_info={"method": "cash_on_delivery"}))
    if collected:
        await record(order_id, PRICE, reference="DHL-8", recorded_by="carrier")
    await ask_to_cancel(order_id, reason="returned", requested_by="Kim", started_by=None)
    outcome = await finish_reopened(order_id)
    if collected:
        assert (outcome.outcome, outcome.amount_at_risk) == (Outcome.NEEDS_ATTENTION, PRICE)
    else:
        assert (outcome.outcome, outcome.amount_at_risk) == (Outcome.COMPENSATED, 0)
    assert saga.stock("PROD-001") == (100, 0)
    await assert_all_is_well(saga, order_id)


@pytest.mark.parametrize("how", ["lapsed", "cancelled", "out of stock"])
async def test_money_for_an_ended_order_goes_to_review(saga: World, unique: str, how: str) -> None:
    order_id = f"VAIN-{unique}"
    fields = {"product": f"NONE-{unique}"} if how == "out of stock" else {}
    if fields:
        saga.receive(f"NONE-{unique}", 1, name="None")
        await outcome_of(an_order(f"LAST-{unique}", **fields))
    intake.submit([an_order(order_id, payment_info={"method": "bank_transfer"}, **fields)])
    if how == "lapsed":
        saga.sql("UPDATE customer_order SET submitted_at = now() - interval '15 days' WHERE outcome IS NULL")
    if how == "cancelled":
        await record(order_id, PRICE, reference="T-1", recorded_by="bank")
        await ask_to_cancel(order_id, reason="too late", requested_by="Kim", started_by=None)
    await process_pending_orders(consumer_seconds=0)
    if how != "cancelled":
        assert ended(order_id).outcome in {Outcome.COMPENSATED, Outcome.OUT_OF_STOCK}
        await record(order_id, PRICE, reference="T-1", recorded_by="bank")
        await process_pending_orders(consumer_seconds=0)
    outcome = ended(order_id)
    assert (outcome.outcome, outcome.amount_at_risk) == (Outcome.NEEDS_ATTENTION, PRICE)
    assert review_queue(saga) == [order_id]
    with pytest.raises(NotRetryable):
        await retry(order_id, NewMeans(method="credit_card", card_last4="1234"))
    await books(saga)


async def test_a_transfer_for_an_order_that_is_not_valid_is_at_risk_with_its_part_payments(
    saga: World, unique: str
) -> None:
    order_id = f"ODD-{unique}"
    parts = [{"method": "gift_card", "amount": "20"}]
    info = {"method": "bank_transfer"}
    outcome = await outcome_of(
        an_order(order_id, product=f"NEW-{unique}", part_payments=parts, payment_info=info)
    )
    assert (outcome.outcome, outcome.amount_at_risk) == (Outcome.NEEDS_ATTENTION, 20)
    await record(order_id, Decimal(50), reference="T-1", recorded_by="bank")
    outcome = await finish_reopened(order_id)
    assert (outcome.outcome, outcome.amount_at_risk) == (Outcome.NEEDS_ATTENTION, 70)
    await assert_all_is_well(saga, order_id)


@pytest.mark.parametrize("settled_as", ["refunded_by_hand", "written_off"])
async def test_money_that_comes_after_a_person_has_settled_is_at_risk(
    saga: World, unique: str, settled_as: str
) -> None:
    """Half of a transfer comes too late, and is settled; then the other half comes, too."""
    order_id, first, second = f"HALF-{unique}", Decimal(400), PRICE - 400
    intake.submit([an_order(order_id, payment_info={"method": "bank_transfer"})])
    saga.sql("UPDATE customer_order SET submitted_at = now() - interval '15 days'")
    await record(order_id, first, reference="T-1", recorded_by="bank")
    await process_pending_orders(consumer_seconds=0)
    await resolve(decision(order_id, settled_as, resolved_by="Kim", reference="B-1", reason="lost"))
    assert (await finish_reopened(order_id)).outcome is Outcome.COMPENSATED
    await assert_all_is_well(saga, order_id)
    mails_before = saga.mail_kinds(order_id)

    await record(order_id, second, reference="T-2", recorded_by="bank")
    outcome = await finish_reopened(order_id)
    assert (outcome.outcome, outcome.amount_at_risk) == (Outcome.NEEDS_ATTENTION, second)
    assert (outcome.amount_elsewhere, review_queue(saga)) == (PRICE, [order_id])
    assert saga.mail_kinds(order_id) == mails_before, "nobody is told that the payment failed"
    await assert_all_is_well(saga, order_id)
    await resolve(decision(order_id, "refunded_by_hand", resolved_by="Kim", reference="B-2"))
    outcome = await finish_reopened(order_id)
    assert (outcome.outcome, outcome.amount_at_risk) == (Outcome.COMPENSATED, 0)
    assert (outcome.amount_elsewhere, review_queue(saga)) == (PRICE, [])
    await assert_all_is_well(saga, order_id)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("settled_as", ["refunded_by_hand", "written_off"])
async def test_a_decision_settles_the_amount_that_the_person_saw_and_no_other(
    saga: World, unique: str, settled_as: str, counted: bool
) -> None:
    """The rest of a transfer comes after the person has looked; `counted`: and a retry has found it."""
    order_id, first = f"SEEN-{unique}", Decimal(400)
    intake.submit([an_order(order_id, payment_info={"method": "bank_transfer"})])
    saga.sql("UPDATE customer_order SET submitted_at = now() - interval '15 days'")
    await record(order_id, first, reference="T-1", recorded_by="bank")
    await process_pending_orders(consumer_seconds=0)
    assert ended(order_id).amount_at_risk == first

    def settling(amount: str) -> Decision:
        return decision(
            order_id, settled_as, resolved_by="Kim", reference="B-1", reason="lost", amount=amount
        )

    await record(order_id, PRICE - first, reference="T-2", recorded_by="bank")
    if counted:
        await finish_reopened(order_id)
    else:  # the gateway is down, so the retry waits
        saga.sql("UPDATE customer_order SET waits_for = 'x', not_before = now() + interval '1 hour'")
    for seen in ("400", "400.00 USD", "999.99 EUR", "1,400 USD"):
        with pytest.raises(AmountChanged, match=r"999\.99 USD are at risk"):
            await resolve(settling(seen))
    assert saga.sql("SELECT 1 FROM desk_entry") == []
    assert await resolve(settling("999.99 usd"))
    assert saga.sql("SELECT amount, currency FROM desk_entry") == [(PRICE, "USD")]
    outcome = await finish_reopened(order_id)
    assert (outcome.outcome, outcome.amount_at_risk) == (Outcome.COMPENSATED, 0)
    assert (outcome.amount_elsewhere, review_queue(saga)) == (PRICE, [])
    await assert_all_is_well(saga, order_id)


@pytest.mark.parametrize("settled", [False, True])
async def test_a_transfer_that_comes_after_the_customer_is_erased_is_at_risk(
    saga: World, unique: str, settled: bool
) -> None:
    order_id = f"ERASED-{unique}"
    parts = [{"method": "gift_card", "amount": "20"}] if settled else []
    info = {"method": "bank_transfer"}
    intake.submit([an_order(order_id, payment_info=info, part_payments=parts, currency="EUR")])
    saga.sql("UPDATE customer_order SET submitted_at = now() - interval '15 days'")
    await process_pending_orders(consumer_seconds=0)
    if settled:
        await resolve(decision(order_id, "refunded_by_hand", resolved_by="Kim", reference="B-1"))
        await finish_reopened(order_id)
    assert ended(order_id).outcome is Outcome.COMPENSATED
    assert await asyncio.to_thread(erase_customers, 0) == 1
    assert (await record(order_id, Decimal(50), reference="T-1", recorded_by="bank")).currency == "EUR"
    outcome = await finish_reopened(order_id)
    assert (outcome.outcome, outcome.amount_at_risk) == (Outcome.NEEDS_ATTENTION, 50)
    assert review_queue(saga) == [order_id]
    await assert_all_is_well(saga, order_id)


async def test_cash_that_is_collected_after_the_customer_is_erased_is_recorded(
    saga: World, unique: str
) -> None:
    order_id = f"ERASED-{unique}"
    await outcome_of(an_order(order_id, payment_info={"method": "cash_on_delivery"}))
    assert await asyncio.to_thread(erase_customers, 0) == 1
    received = await record(order_id, PRICE + 1, reference="DHL-7", recorded_by="carrier")
    assert (received.total_received, received.overpaid) == (PRICE + 1, 1)
    (row,) = [row for row in (await books(saga)).rows if row.name == "paid elsewhere"]
    assert row.source.startswith("0.00 USD")
    await assert_all_is_well(saga, order_id)


@pytest.mark.parametrize("before", [Decimal(0), Decimal(400)])
async def test_cash_that_was_written_off_and_is_collected_later_is_at_risk(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch, before: Decimal
) -> None:
    """The gateway gives no answer, so nobody knows whether there is money; `before` was collected by then."""
    order_id = f"CASH-{unique}"
    await outcome_of(an_order(order_id, payment_info={"method": "cash_on_delivery"}))
    if before:
        await record(order_id, before, reference="DHL-1", recorded_by="carrier")
    with monkeypatch.context() as silent:
        silent.setattr("shop.payments.charge.payments_of", _no_answer)
        await ask_to_cancel(order_id, reason="returned", requested_by="Kim", started_by=None)
        assert (await finish_reopened(order_id)).amount_at_risk == PRICE
    await resolve(decision(order_id, "written_off", resolved_by="Kim", reason="not collected"))
    assert (await finish_reopened(order_id)).outcome is Outcome.COMPENSATED
    await assert_all_is_well(saga, order_id)

    await record(order_id, PRICE - before, reference="DHL-2", recorded_by="carrier")
    outcome = await finish_reopened(order_id)
    assert (outcome.outcome, outcome.amount_at_risk) == (Outcome.NEEDS_ATTENTION, PRICE - before)
    assert review_queue(saga) == [order_id]
    await assert_all_is_well(saga, order_id)
    await resolve(decision(order_id, "refunded_by_hand", resolved_by="Kim", reference="B-1"))
    outcome = await finish_reopened(order_id)
    assert (outcome.outcome, outcome.amount_at_risk) == (Outcome.COMPENSATED, 0)
    await assert_all_is_well(saga, order_id)


async def _no_answer(*_: object) -> list[Payment]:
    raise PaymentGatewayError("bad_answer", "no answer", retryable=False)


@pytest.mark.parametrize(
    "given", [{"amount": Decimal(0)}, {"amount": Decimal("1.001")}, {"reference": " "}, {"recorded_by": ""}]
)
async def test_what_cannot_be_recorded(saga: World, unique: str, given: dict[str, Any]) -> None:
    order_id = f"BAD-{unique}"
    await outcome_of(an_order(order_id, payment_info={"method": "cash_on_delivery"}))
    fields = {"amount": PRICE, "reference": "R", "recorded_by": "Kim", **given}
    with pytest.raises(NotReceivable):
        await record(order_id, fields.pop("amount"), **fields)
    with pytest.raises(NotReceivable):
        await record(f"NO-{unique}", PRICE, reference="R", recorded_by="Kim")


async def test_money_is_not_received_for_an_order_that_is_paid_by_card(saga: World, unique: str) -> None:
    await outcome_of(an_order(f"CARD-{unique}"))
    with pytest.raises(NotReceivable):
        await record(f"CARD-{unique}", PRICE, reference="R", recorded_by="Kim")


# -- what cancelling would cost


async def cost(order_id: str) -> tuple[Decimal, Decimal]:
    """What the gateway would refund, and a person would have to give back."""
    seen = await preview_cancel(order_id, ORDER_SAGA, gateway())
    assert seen.refund_is_certain
    assert "refund_payment" in {planned.compensation for planned in seen.undo}
    return seen.refund, seen.by_hand


async def test_a_preview_of_cancelling_states_who_has_the_money(saga: World, unique: str) -> None:
    ours, later = paid_in_the_shop(saga, unique), paid_in_the_shop(saga, f"later-{unique}")
    parts = [{"method": "gift_card", "amount": "300"}]
    costs = {
        "ELSEWHERE": (paid("ELSEWHERE", "paypal-1"), (0, PRICE)),
        "OURS": (paid("OURS", ours), (PRICE, 0)),
        "ANOTHER": (paid("ANOTHER", ours), (0, 0)),
        "PARTS": (an_order("PARTS", part_payments=parts), (Decimal("699.99"), 300)),
        "CASH": (an_order("CASH", payment_info={"method": "cash_on_delivery"}), (0, 0)),
    }
    for order_id, (order, expected) in costs.items():
        if order_id != "ANOTHER":
            await outcome_of(order)
            assert await cost(order_id) == expected, order_id
    wire = an_order("WIRE", payment_info={"method": "bank_transfer"})
    await process_order(wire, return_state=True)
    assert await cost("WIRE") == (0, 0), "the gateway was never asked to charge it"
    await record("CASH", PRICE, reference="DHL-1", recorded_by="carrier")
    assert await cost("CASH") == (0, PRICE)
    waiting = [costs["ANOTHER"][0], paid("WAITING", later), paid("UNKNOWN", "paypal-2")]
    intake.submit(waiting)
    assert await cost("ANOTHER") == (0, 0), "another order is paid by it"
    assert await cost("WAITING") == (PRICE, 0)
    assert await cost("UNKNOWN") == (0, PRICE)
    adopted = saga.sql("SELECT order_id FROM adopted_payment")
    assert adopted == [("OURS",)], "looking changes nothing"


# -- of real shops


async def test_the_customer_s_number_and_language(saga: World, unique: str) -> None:
    order_id = f"shop-{unique}"
    order = {
        **an_order(order_id, customer_id=None),
        "order_number": "#1071",
        "locale": "de-AT",
        "notes": "x" * 5_000,
        "unknown": 1,
        "shipping_info": {**EXAMPLE["shipping_info"], "company": "ACME Inc.", "address2": ""},
    }
    assert settings().mail.language == "en"
    assert (await outcome_of(order)).outcome is Outcome.COMPLETED
    text = saga.mail(order_id, "confirmation")
    assert "#1071" in text
    assert "Bestellung" in text
    (label,) = saga.labels([order_id]).values()
    assert label.startswith(b"%PDF")
