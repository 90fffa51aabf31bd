"""The same order again after it ended uncompleted. Checked against the gateway's own ledger and the stock."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal

import httpx
import pytest

from deployments.cli import order_saga
from deployments.environment import environment
from deployments.local.programs import Sandbox
from flows.order_run import finish_reopened
from flows.order_saga import ORDER_SAGA
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from flows.retry_order import retry_order
from saga.database import sync_engine
from shop.inventory.deliveries import read_delivery
from shop.inventory.stock import receive
from shop.monitoring.exposition.reading import count_new, read_totals
from shop.notifications.kinds import Kind
from shop.notifications.mail import message_id
from shop.notifications.maildir import mail_name
from shop.orders import intake
from shop.orders.outcomes import OrderOutcome, Outcome
from shop.orders.page.page import order_page
from shop.orders.page.story import read_story
from shop.orders.report import read, read_status
from shop.orders.tries import MOST_TRIES, TRY, number_of
from shop.payments.gateways import gateway
from shop.reconciliation.discrepancy import Kind as Difference
from shop.reconciliation.reconcile import compare_order
from shop.reconciliation.stock import check_stock
from shop.retention.customers import erase_customers
from shop.review.cancel import ask_to_cancel
from shop.review.errors import NotRetryable, OrderUnknown, RetryInvalid
from shop.review.preview import preview_cancel
from shop.review.resolution import decision, resolve
from shop.review.retry import NewMeans, RetryReceipt, retry
from shop.settings import settings
from tests.integration.test_retention import files_about, rows_about
from tests.integration.world import World, an_order, text_of

PRICE = Decimal("999.99")
GOOD, DECLINED, REFUSES_REFUNDS = "1234", "0002", "0259"
CARD = NewMeans(card_last4=GOOD)


def ended(order_id: str) -> OrderOutcome:
    return read([order_id])[order_id]


async def again(order_id: str, means: NewMeans | None = None) -> OrderOutcome:
    """Tries it again, to its outcome."""
    assert (await retry(order_id, means)).status == "accepted"
    return await finish_reopened(order_id)


async def deliver(product: str, pieces: int) -> None:
    goods = {"product_id": product, "pieces": pieces, "name": "New"}
    await receive([read_delivery(goods)], started_by="test")


def kept(saga: World, order_id: str) -> Decimal:
    charged, refunded = saga.money(order_id)
    return charged - refunded


async def assert_nothing_differs(saga: World, order_id: str) -> None:
    """By the books, and by the reconciliation with the gateway."""
    saga.assert_books_balance()
    late = datetime.max.replace(tzinfo=UTC)
    assert await compare_order(order_id, gateway(), late, fix=False) == []


def pay_late(saga: World, order_id: str, *, card: str = GOOD, confirmed: bool = True) -> str:
    """A request of a dead worker arrives at the gateway now."""
    body = {"order_id": order_id, "amount": 99999, "currency": "USD", "method": "credit_card"}
    body |= {"card_last4": card, "installation": saga.installation}
    answer = httpx.post(f"{saga.gateway_url}/v1/payments", json=body, timeout=10).raise_for_status()
    payment_id = str(answer.json()["id"])
    if confirmed:
        url = f"{saga.gateway_url}/v1/payments/{payment_id}/confirm"
        httpx.post(url, timeout=10).raise_for_status()
    return payment_id


# -- money


async def test_another_card_pays_after_a_decline(saga: World, unique: str) -> None:
    order_id = f"CARD-{unique}"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    assert ended(order_id).outcome is Outcome.COMPENSATED
    outcome = await again(order_id, CARD)
    assert (outcome.outcome, outcome.amount_charged, outcome.amount_refunded) == (
        Outcome.COMPLETED,
        PRICE,
        0,
    )
    assert saga.money(order_id) == (PRICE, 0)
    assert [payment["try_number"] for payment in saga.ledger(order_id)] == [1, 2]
    assert [payment["status"] for payment in saga.ledger(order_id)] == ["declined", "succeeded"]
    assert saga.stock("PROD-001") == (99, 0)
    assert saga.shipments(order_id) == 1
    assert saga.mail_kinds(order_id) == {"payment_failed"}
    assert mail_name(order_id, Kind.CONFIRMATION, 2) in saga.mails()
    await assert_nothing_differs(saga, order_id)


async def test_declined_again_and_then_paid(saga: World, unique: str) -> None:
    order_id = f"TWICE-{unique}"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    assert (await again(order_id, NewMeans(card_last4="0000"))).outcome is Outcome.COMPENSATED
    assert (await again(order_id, CARD)).outcome is Outcome.COMPLETED
    assert saga.money(order_id) == (PRICE, 0)
    status = await read_status(order_id)
    assert status is not None
    assert (status.try_number, [each.number for each in status.earlier_tries]) == (3, [1, 2])
    assert {each.outcome for each in status.earlier_tries} == {Outcome.COMPENSATED}
    mails = saga.mails()
    ids = [
        mails[mail_name(order_id, kind, number)]["Message-ID"]
        for kind, number in ((Kind.PAYMENT_FAILED, 1), (Kind.PAYMENT_FAILED, 2), (Kind.CONFIRMATION, 3))
    ]
    assert len(set(ids)) == 3
    assert ids[1] == message_id(order_id, Kind.PAYMENT_FAILED, settings(), saga.installation, 2)
    await assert_nothing_differs(saga, order_id)


async def test_the_money_of_a_try_that_was_refunded_counts_in_the_totals(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id = f"SENT-{unique}"
    await process_order(an_order(order_id, country="AQ"), return_state=True)
    assert saga.money(order_id) == (PRICE, PRICE)
    monkeypatch.setenv("CARRIER_REFUSES", "[]")
    settings.cache_clear()
    outcome = await again(order_id)
    assert (outcome.outcome, outcome.amount_charged, outcome.amount_refunded) == (
        Outcome.COMPLETED,
        2 * PRICE,
        PRICE,
    )
    assert saga.money(order_id) == (2 * PRICE, PRICE)
    status = await read_status(order_id)
    assert status is not None
    assert [(each.amount_charged, each.amount_refunded) for each in status.earlier_tries] == [(PRICE, PRICE)]
    assert saga.mail_kinds(order_id) == {"refund"}, "one refund, one mail about it"
    assert mail_name(order_id, Kind.REFUND, 2) not in saga.mails()
    await assert_nothing_differs(saga, order_id)


async def test_a_try_is_refunded_like_any_other(saga: World, unique: str) -> None:
    """Charged and refunded twice, by two tries, with two mails."""
    order_id = f"BACK-{unique}"
    await process_order(an_order(order_id, country="AQ"), return_state=True)
    outcome = await again(order_id)
    assert outcome.outcome is Outcome.COMPENSATED
    assert saga.money(order_id) == (2 * PRICE, 2 * PRICE)
    assert (outcome.amount_charged, outcome.amount_refunded) == (2 * PRICE, 2 * PRICE)
    for number in (1, 2):
        mail = text_of(saga.mails()[mail_name(order_id, Kind.REFUND, number)])
        assert "999.99 USD" in mail
    await assert_nothing_differs(saga, order_id)


async def test_a_declined_retry_is_reported_and_refunds_nothing_twice(saga: World, unique: str) -> None:
    order_id = f"THEN-{unique}"
    await process_order(an_order(order_id, country="AQ"), return_state=True)
    outcome = await again(order_id, NewMeans(card_last4=DECLINED))
    assert outcome.outcome is Outcome.COMPENSATED
    assert saga.money(order_id) == (PRICE, PRICE)
    mails = saga.mails()
    assert mail_name(order_id, Kind.PAYMENT_FAILED, 2) in mails
    assert mail_name(order_id, Kind.REFUND, 2) not in mails
    await assert_nothing_differs(saga, order_id)


@pytest.mark.parametrize("before_the_retry", [True, False])
async def test_a_refund_of_an_earlier_try_that_the_bank_sends_back_is_for_a_person(
    saga: World, sandbox: Sandbox, unique: str, monkeypatch: pytest.MonkeyPatch, before_the_retry: bool
) -> None:
    order_id = f"BOUNCED-{unique}"
    await process_order(an_order(order_id, country="AQ"), return_state=True)
    monkeypatch.setenv("CARRIER_REFUSES", "[]")
    settings.cache_clear()
    if not before_the_retry:
        assert (await again(order_id)).outcome is Outcome.COMPLETED
    with closing(sqlite3.connect(sandbox.ledger, isolation_level=None)) as ledger:
        ledger.execute(
            "DELETE FROM refunds WHERE payment IN (SELECT number FROM payments WHERE order_id = ?)",
            [order_id],
        )
        ledger.execute("UPDATE payments SET refunded = 0 WHERE order_id = ?", [order_id])
        ledger.execute("DELETE FROM answers")  # days later: the keys have expired
    if before_the_retry:
        assert (await again(order_id)).outcome is Outcome.COMPLETED
    (found,) = await compare_order(order_id, gateway(), datetime.max.replace(tzinfo=UTC), fix=True)
    assert (found.kind, found.repaired) == (Difference.CHARGED_MORE_THAN_ONCE, False)
    assert saga.money(order_id) == (2 * PRICE, 0), "not repeated by itself"


@pytest.mark.parametrize("card", [GOOD, DECLINED])
async def test_a_late_success_of_an_earlier_try_is_refunded(saga: World, unique: str, card: str) -> None:
    order_id = f"LATE-{unique}"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    late = pay_late(saga, order_id)
    outcome = await again(order_id, NewMeans(card_last4=card))
    paid = card == GOOD
    assert outcome.outcome is (Outcome.COMPLETED if paid else Outcome.COMPENSATED)
    assert kept(saga, order_id) == (PRICE if paid else 0)
    assert [len(payment["refunds"]) for payment in saga.ledger(order_id) if payment["id"] == late] == [1]
    assert outcome.amount_refunded == PRICE
    assert (mail_name(order_id, Kind.REFUND, 2) in saga.mails()) is not paid
    await assert_nothing_differs(saga, order_id)


async def test_a_success_that_comes_after_the_next_try_is_refunded_by_reconciliation(
    saga: World, unique: str
) -> None:
    order_id = f"LATER-{unique}"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    await again(order_id, CARD)
    late = pay_late(saga, order_id)
    assert saga.money(order_id) == (2 * PRICE, 0)
    always = datetime.max.replace(tzinfo=UTC)
    for expected in ([True], []):
        found = await compare_order(order_id, gateway(), always, fix=True)
        assert [each.repaired for each in found] == expected
    assert saga.money(order_id) == (2 * PRICE, PRICE)
    assert [p["id"] for p in saga.ledger(order_id) if p["refunds"]] == [late]
    assert ended(order_id).outcome is Outcome.COMPLETED
    await assert_nothing_differs(saga, order_id)
    await ask_to_cancel(order_id, reason="changed their mind", requested_by="ann")
    assert (await finish_reopened(order_id)).outcome is Outcome.COMPENSATED
    assert saga.money(order_id) == (2 * PRICE, 2 * PRICE)
    await assert_nothing_differs(saga, order_id)


async def test_money_that_came_late_is_known_after_the_customer_is_erased(saga: World, unique: str) -> None:
    order_id = f"ERASED-{unique}"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    pay_late(saga, order_id)
    assert (await again(order_id, CARD)).outcome is Outcome.COMPLETED
    assert await asyncio.to_thread(erase_customers, 0) == 1
    await assert_nothing_differs(saga, order_id)
    await ask_to_cancel(order_id, reason="returned", requested_by="ann")
    assert (await finish_reopened(order_id)).outcome is Outcome.COMPENSATED
    assert (ended(order_id).amount_charged, ended(order_id).amount_refunded) == (2 * PRICE, 2 * PRICE)
    assert saga.money(order_id) == (2 * PRICE, 2 * PRICE)
    await assert_nothing_differs(saga, order_id)


async def test_a_late_success_that_cannot_be_refunded_needs_a_person(saga: World, unique: str) -> None:
    """And the new card is not charged."""
    order_id = f"KEPT-{unique}"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    pay_late(saga, order_id, card=REFUSES_REFUNDS)
    outcome = await again(order_id, CARD)
    assert (outcome.outcome, outcome.amount_charged, outcome.amount_at_risk) == (
        Outcome.NEEDS_ATTENTION,
        PRICE,
        PRICE,
    )
    assert saga.money(order_id) == (PRICE, 0)
    await assert_nothing_differs(saga, order_id)


async def test_what_an_earlier_try_left_is_cancelled_before_the_next_one_charges(
    saga: World, unique: str
) -> None:
    order_id = f"LEFT-{unique}"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    left = pay_late(saga, order_id, confirmed=False)
    await again(order_id, CARD)
    assert {p["id"]: p["status"] for p in saga.ledger(order_id)}[left] == "cancelled"
    assert kept(saga, order_id) == PRICE
    await assert_nothing_differs(saga, order_id)


async def test_a_gateway_that_forgets_its_keys_and_loses_answers(saga: World, unique: str) -> None:
    order_id = f"FORGET-{unique}"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    rules = [
        {"fault": "reset_after", "move": move, "order_id": order_id, "times": 1}
        for move in ("create", "confirm", "refund")
    ]
    pay_late(saga, order_id)
    saga.misbehave(forget_keys=True, faults=rules)
    try:
        assert (await again(order_id, CARD)).outcome is Outcome.COMPLETED
    finally:
        saga.misbehave(forget_keys=False, faults=[])
    assert kept(saga, order_id) == PRICE
    assert max(len(payment["refunds"]) for payment in saga.ledger(order_id)) == 1
    await assert_nothing_differs(saga, order_id)


async def test_a_refund_that_is_refused_in_a_later_try_needs_a_person(saga: World, unique: str) -> None:
    order_id = f"STUCK-{unique}"
    await process_order(an_order(order_id, country="AQ"), return_state=True)
    outcome = await again(order_id, NewMeans(card_last4=REFUSES_REFUNDS))
    assert outcome.outcome is Outcome.NEEDS_ATTENTION
    assert saga.money(order_id) == (2 * PRICE, PRICE)
    assert (outcome.amount_charged, outcome.amount_refunded, outcome.amount_at_risk) == (
        2 * PRICE,
        PRICE,
        PRICE,
    )
    await assert_nothing_differs(saga, order_id)
    with pytest.raises(NotRetryable):
        await retry(order_id, CARD)


async def test_what_a_person_refunded_by_hand_balances_in_a_later_try(saga: World, unique: str) -> None:
    order_id = f"HAND-{unique}"
    await process_order(an_order(order_id, country="AQ"), return_state=True)
    await again(order_id, NewMeans(card_last4=REFUSES_REFUNDS))
    await resolve(decision(order_id, "refunded_by_hand", resolved_by="ann", reference="transfer 4711"))
    outcome = await finish_reopened(order_id)
    assert (outcome.outcome, outcome.amount_at_risk) == (Outcome.COMPENSATED, 0)
    assert (outcome.amount_charged, outcome.amount_refunded) == (2 * PRICE, PRICE)
    await assert_nothing_differs(saga, order_id)
    assert "999.99 USD" in text_of(saga.mails()[mail_name(order_id, Kind.REFUND, 2)])
    await refused(order_id)
    assert saga.money(order_id) == (2 * PRICE, PRICE)


async def test_a_second_try_that_is_cancelled_is_refunded_once(saga: World, unique: str) -> None:
    order_id = f"RETURN-{unique}"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    await again(order_id, CARD)
    seen = await preview_cancel(order_id, ORDER_SAGA, gateway())
    assert (seen.refund, seen.refunded) == (PRICE, 0)
    await ask_to_cancel(order_id, reason="changed their mind", requested_by="ann")
    assert (await finish_reopened(order_id)).outcome is Outcome.COMPENSATED
    assert saga.money(order_id) == (PRICE, PRICE)
    assert saga.stock("PROD-001") == (100, 0)
    await assert_nothing_differs(saga, order_id)


# -- stock and catalogue


async def test_out_of_stock_and_then_stock_arrives(saga: World, unique: str) -> None:
    order_id, product = f"STOCK-{unique}", "OUT-OF-STOCK"
    await process_order(an_order(order_id, product=product), return_state=True)
    assert ended(order_id).outcome is Outcome.OUT_OF_STOCK
    assert (await again(order_id)).outcome is Outcome.OUT_OF_STOCK
    await deliver(product, 3)
    assert (await again(order_id)).outcome is Outcome.COMPLETED
    assert saga.stock(product) == (2, 0)
    assert saga.money(order_id) == (PRICE, 0)
    await assert_nothing_differs(saga, order_id)


async def test_what_was_released_is_reserved_again_once(saga: World, unique: str) -> None:
    order_id = f"SHELF-{unique}"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    assert saga.stock("PROD-001") == (100, 0)
    await again(order_id, NewMeans(card_last4=DECLINED))
    assert saga.stock("PROD-001") == (100, 0)
    await again(order_id, CARD)
    assert saga.stock("PROD-001") == (99, 0)
    saga.assert_books_balance()


async def test_rejected_and_then_the_product_is_added(saga: World, unique: str) -> None:
    order_id, product = f"NEW-{unique}", f"NEW-{unique}"
    order = an_order(order_id, product=product)
    await process_order(order, return_state=True)
    (receipt,) = intake.submit([order])
    assert (receipt.status, receipt.outcome) == ("known", Outcome.REJECTED)
    assert receipt.how_to_retry is not None
    assert order_id in receipt.how_to_retry
    await deliver(product, 1)
    state = await retry_order(order_id, "it is in the catalogue now", "ann", return_state=True)
    assert state.name == "Completed"
    await assert_nothing_differs(saga, order_id)
    assert saga.money(order_id) == (PRICE, 0)
    (row,) = saga.sql("SELECT * FROM order_try WHERE order_id = :id", id=order_id)
    assert (row.number, row.outcome, row.requested_by) == (1, "rejected", "ann")
    assert row.reasons == receipt.reasons
    assert [entry["step"] for entry in row.journal] == ["validate_order"]
    (receipt,) = intake.submit([order])
    assert (receipt.status, receipt.outcome, receipt.how_to_retry) == ("known", Outcome.COMPLETED, None)


async def test_a_card_number_in_the_order_is_replaced_by_a_token(saga: World, unique: str) -> None:
    order_id = f"NUMBER-{unique}"
    order = an_order(order_id, payment_info={"method": "credit_card", "card_number": "4242424242424242"})
    await process_order(order, return_state=True)
    assert ended(order_id).outcome is Outcome.REJECTED
    assert (await again(order_id, NewMeans(token="tok_visa"))).outcome is Outcome.COMPLETED
    assert saga.money(order_id) == (PRICE, 0)


@pytest.mark.parametrize("means", [NewMeans(token="tok_visa"), NewMeans(method="cash_on_delivery")])
async def test_reports_can_read_an_order_whose_card_data_was_replaced(
    saga: World, unique: str, means: NewMeans
) -> None:
    """It was sent with fields that are left out in spellings that the database cannot convert."""
    order_id = f"AS-SENT-{unique}"
    order = an_order(order_id, payment_info={"method": "credit_card", "cvv": "123"}, part_payments=None)
    order["items"][0]["digital"] = ""
    await process_order(order, return_state=True)
    assert ended(order_id).outcome is Outcome.REJECTED
    assert (await again(order_id, means)).outcome is Outcome.COMPLETED
    assert saga.money(order_id) == (PRICE if means.token else 0, 0)
    assert [each async for each in check_stock()] == []
    await assert_nothing_differs(saga, order_id)


async def test_reports_can_read_orders_that_earlier_versions_stored_as_sent(saga: World, unique: str) -> None:
    order_id = f"OLD-{unique}"
    await process_order(an_order(order_id, payment_info={"method": "cash_on_delivery"}), return_state=True)
    saga.sql(
        "UPDATE customer_order SET content = "
        """jsonb_set(content || '{"part_payments": null}', '{items,0,digital}', '""')"""
    )
    assert [each async for each in check_stock()] == []
    await assert_nothing_differs(saga, order_id)
    saga.assert_books_balance()


# -- once


async def test_parallel_requests_make_one_new_try(saga: World, unique: str) -> None:
    order_id = f"CROWD-{unique}"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    receipts = await asyncio.gather(*(retry(order_id, CARD) for _ in range(8)))
    assert sorted(each.status for each in receipts) == ["accepted"] + ["under_way"] * 7
    assert {each.try_number for each in receipts} == {2}
    await process_pending_orders(consumer_seconds=0)
    assert saga.money(order_id) == (PRICE, 0)
    assert saga.sql("SELECT count(*) FROM order_try WHERE order_id = :id", id=order_id)[0][0] == 1


async def test_another_card_is_not_dropped_while_a_try_is_under_way(saga: World, unique: str) -> None:
    order_id = f"OTHER-{unique}"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    await retry(order_id, CARD)
    with pytest.raises(NotRetryable):
        await retry(order_id, NewMeans(card_last4="4444"))
    assert (await retry(order_id)).status == "under_way"


async def test_sending_the_order_again_does_not_retry_it(saga: World, unique: str) -> None:
    order_id = f"SAME-{unique}"
    order = an_order(order_id, card=DECLINED)
    await process_order(order, return_state=True)
    await again(order_id, CARD)
    for sent in (order, {**order, TRY: {"number": 7}}):
        (receipt,) = intake.submit([sent])
        assert (receipt.status, receipt.outcome) == ("known", Outcome.COMPLETED)
    (receipt,) = intake.submit([an_order(order_id, card=GOOD)])
    assert receipt.status == "refused", "an order with other content has another id"
    assert saga.money(order_id) == (PRICE, 0)


async def test_the_number_of_a_try_cannot_be_submitted(saga: World, unique: str) -> None:
    order_id = f"FORGED-{unique}"
    forged = {**an_order(order_id), TRY: {"number": 9, "charged": "1000", "payments": ["pay_1"]}}
    await process_order(forged, return_state=True)
    assert number_of(saga.order(order_id).content) == 1
    assert saga.money(order_id) == (PRICE, 0)
    saga.assert_books_balance()


# -- refusals


async def refused(order_id: str) -> str:
    with pytest.raises(NotRetryable) as caught:
        await retry(order_id, CARD)
    return str(caught.value)


async def test_what_cannot_be_tried_again(saga: World, unique: str) -> None:
    with pytest.raises(OrderUnknown):
        await retry(f"NOBODY-{unique}")
    waiting = f"WAITS-{unique}"
    intake.submit([an_order(waiting)])
    await refused(waiting)
    await ask_to_cancel(waiting, reason="changed their mind", requested_by="ann")
    await process_pending_orders(consumer_seconds=0)
    assert ended(waiting).outcome is Outcome.COMPENSATED
    await refused(waiting)
    (receipt,) = intake.submit([an_order(waiting)])
    assert receipt.how_to_retry is None
    done = f"DONE-{unique}"
    await process_order(an_order(done), return_state=True)
    await refused(done)
    await ask_to_cancel(done, reason="changed their mind", requested_by="ann")
    await finish_reopened(done)
    assert ended(done).outcome is Outcome.COMPENSATED
    await refused(done)
    assert [saga.money(order_id) for order_id in (waiting, done)] == [(0, 0), (PRICE, PRICE)]
    assert saga.sql("SELECT count(*) FROM order_try")[0][0] == 0


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE customer_order SET erased_at = now() WHERE id = :id",
        "UPDATE customer_order SET amount_charged = amount_charged + 1 WHERE id = :id",
        "UPDATE order_step SET undo_due = true WHERE order_id = :id",
        """INSERT INTO dispute (id, order_id, amount, currency, reason, status, opened_at, as_of)
            VALUES (:id, :id, 1, 'USD', 'fraudulent', 'needs_response', now(), now())""",
        """INSERT INTO attention (order_id, step, currency, last_error, error_code, amount_written_off,
            resolved_at, resolution) VALUES (:id, 's', 'USD', 'e', 'e', 1, now(), 'written_off')""",
        f"""UPDATE customer_order SET content = content
            || jsonb_build_object('{TRY}', jsonb_build_object('number', {MOST_TRIES})) WHERE id = :id""",
    ],
)
async def test_what_is_in_the_way(saga: World, unique: str, change: str) -> None:
    order_id = f"WAY-{unique}"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    saga.sql(change, id=order_id)
    await refused(order_id)
    assert ended(order_id).outcome is Outcome.COMPENSATED
    assert saga.money(order_id) == (0, 0)


async def test_card_data_is_never_stored(saga: World, unique: str) -> None:
    order_id, number = f"SECRET-{unique}", "4242424242424242"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    with pytest.raises(RetryInvalid) as caught:
        await retry(
            order_id,
            NewMeans(token=number, method="cash", card_last4="12345"),
            requested_by=number,
            reason="x" * 1000,
        )
    assert set(caught.value.problems) == {"token", "method", "card_last4", "requested_by", "reason"}
    assert number not in str(caught.value)
    assert number not in repr(NewMeans(token=number))
    assert number_of(saga.order(order_id).content) == 1


async def test_a_token_is_kept_with_the_order_alone(
    saga: World, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    order_id, old, new = f"TOKEN-{unique}", f"tok_old_{unique}", f"tok_new_{unique}"
    payment = {"method": "credit_card", "card_last4": DECLINED, "token": old}
    await process_order(an_order(order_id, payment_info=payment), return_state=True)
    await again(order_id, NewMeans(token=new))
    assert saga.money(order_id) == (PRICE, 0)
    found = rows_about(saga.database_url, new)
    assert [row.partition(":")[0] for row in found] == ["customer_order"]
    assert rows_about(saga.database_url, old) == [], "what was replaced is gone"
    assert files_about(saga.var_dir / "mail", new) == []
    assert new not in caplog.text


# -- messages


async def test_an_outdated_mail_is_not_sent(saga: World, unique: str) -> None:
    order_id = f"UNSENT-{unique}"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    saga.sql("UPDATE outbox SET sent_at = NULL WHERE order_id = :id", id=order_id)
    await retry(order_id, CARD)
    assert saga.sql("SELECT kind FROM outbox WHERE order_id = :id", id=order_id) == []


async def test_a_receipt_has_the_number(saga: World, unique: str) -> None:
    order_id = f"RECEIPT-{unique}"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    assert await retry(order_id, CARD) == RetryReceipt(order_id=order_id, status="accepted", try_number=2)
    assert await retry(order_id) == RetryReceipt(order_id=order_id, status="under_way", try_number=2)


# -- the command


async def test_the_command(saga: World, unique: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        with environment({"PREFECT_API_URL": "http://127.0.0.1:1/api"}):
            code = await asyncio.to_thread(order_saga, list(arguments))
        return code, "".join(capsys.readouterr())

    order_id = f"SHELL-{unique}"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    code, output = await run("retry", order_id, "--token", "4242424242424242", "--card-last4", "1")
    assert (code, "--token" in output, "--card-last4" in output) == (2, True, True)
    assert "4242" not in output
    given = ("--token", "tok_secret_1", "--by", "ann", "--reason", "a new card")
    for _ in range(2):
        code, output = await run("retry", order_id, *given)
        assert (code, "tok_secret_1" in output) == (0, False)
    await process_pending_orders(consumer_seconds=0)
    assert saga.money(order_id) == (PRICE, 0)
    code, output = await run("show", "--ascii", order_id)
    assert (code, "try 1" in output, "try 2" in output) == (0, True, True)
    assert (await run("retry", order_id))[0] == (await run("retry", f"NOBODY-{unique}"))[0] == 1
    (row,) = saga.sql("SELECT * FROM order_try WHERE order_id = :id", id=order_id)
    assert (row.requested_by, row.reason, bool(row.started_by)) == ("ann", "a new card", True)


# -- what is kept of it


async def test_the_page_shows_the_earlier_tries(saga: World, unique: str) -> None:
    order_id = f"PAGE-{unique}"
    await process_order(an_order(order_id, country="AQ"), return_state=True)
    await again(order_id, NewMeans(card_last4=DECLINED))
    story = await read_story(order_id)
    assert story is not None
    (earlier,) = story.tries
    assert (earlier.number, earlier.outcome, earlier.failing_step) == (
        1,
        Outcome.COMPENSATED,
        "fulfill_order",
    )
    page = order_page(story, ORDER_SAGA, settings())
    assert "## Earlier tries" in page
    assert {(mail.kind, mail.try_number) for mail in story.mails} == {("refund", 1), ("payment_failed", 2)}


async def test_each_try_counts_as_an_outcome(saga: World, unique: str) -> None:
    def counted() -> dict[str, int]:
        with sync_engine(settings().database_url).begin() as connection:
            count_new(connection, every=0)
            totals = read_totals(connection)
        return {each.result: 0 for each in totals} | {
            outcome: sum(each.total for each in totals if (each.kind, each.result) == ("order", outcome))
            for outcome in map(str, Outcome)
        }

    order_id = f"COUNT-{unique}"
    await process_order(an_order(order_id, card=DECLINED), return_state=True)
    await again(order_id, NewMeans(card_last4=DECLINED))
    await again(order_id, CARD)
    now = counted()
    assert (now["compensated"], now["completed"]) == (2, 1)
    again_counted = counted()
    assert (again_counted["compensated"], again_counted["completed"]) == (2, 1)


async def test_an_erased_customer_is_in_no_earlier_try(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id, planted = f"ERASED-{unique}", "Plantagenet"
    order = an_order(order_id, country="AQ", customer_name=f"Jane {planted}")
    await process_order(order, return_state=True)
    await retry(order_id, NewMeans(card_last4=GOOD), requested_by=f"Jane {planted}", reason=f"for {planted}")
    await finish_reopened(order_id)
    saga.sql("UPDATE order_try SET reasons = jsonb_build_array(CAST(:who AS text))", who=planted)
    saga.sql("UPDATE customer_order SET finished_at = finished_at - interval '40 days'")
    monkeypatch.setenv("RECONCILIATION_GRACE_SECONDS", "0")
    settings.cache_clear()
    assert await asyncio.to_thread(erase_customers, 30) == 1
    kept_of_it = saga.sql("SELECT to_jsonb(t)::text FROM order_try t WHERE order_id = :id", id=order_id)
    assert planted not in str(kept_of_it)
    assert planted not in str(saga.order(order_id).content)
    assert [name for name in saga.mails() if order_id in name] == []
    assert number_of(saga.order(order_id).content) == 2
    assert saga.money(order_id) == (2 * PRICE, 2 * PRICE)
    await assert_nothing_differs(saga, order_id)
