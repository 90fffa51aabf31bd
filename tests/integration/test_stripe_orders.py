"""Orders that are paid through Stripe, in both lanes, through a real Prefect server and localstripe."""

from __future__ import annotations

import asyncio
import copy
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from deployments.samples import Sample, at_stripe, load_samples
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from saga import claims
from saga.database import transaction
from saga.finish import postpone
from saga.lease import lease
from shop.orders import intake, report
from shop.orders.outcomes import OrderOutcome, Outcome
from shop.orders.store import ORDERS
from shop.payments.errors import PaymentNeedsCustomer
from shop.payments.events import inbox
from shop.payments.events.inbox import PaymentEvent
from shop.payments.gateways import close_gateway, gateway
from shop.reconciliation.books import gateway_totals, read_books
from shop.reconciliation.discrepancy import Kind
from shop.reconciliation.reconcile import reconcile
from shop.review.retry import NewMeans, retry
from shop.settings import settings
from tests.integration.stripe_world import StripeWorld, paid_by
from tests.integration.test_samples import needs_shipment, own_runs, pending_lane, retry_sample
from tests.integration.world import an_order
from tests.waiting import until

PRICE = Decimal("999.99")
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
SAMPLES = at_stripe(load_samples())


def ended(order_id: str) -> OrderOutcome:
    return report.read([order_id])[order_id]


async def consumer() -> None:
    await process_pending_orders(consumer_seconds=0)


@pytest.mark.parametrize("lane", [own_runs, pending_lane])
@pytest.mark.parametrize("sample", SAMPLES, ids=[sample.title for sample in SAMPLES])
@pytest.mark.short_form("pending_lane")
async def test_sample_ends_as_it_should(
    stripe_saga: StripeWorld, unique: str, sample: Sample, lane: Any
) -> None:
    orders = [{**copy.deepcopy(order), "id": f"{order['id']}-{unique}"} for order in sample.orders]

    await lane(orders, sample.concurrent)
    await retry_sample(sample, orders)

    ends = report.read([order["id"] for order in orders])
    outcomes: list[OrderOutcome | None] = [ends.get(order["id"]) for order in orders]
    for order, outcome, expected in zip(orders, outcomes, sample.assign(outcomes), strict=True):
        assert outcome is not None
        assert expected.differences(outcome) == []
        assert stripe_saga.money(order["id"]) == (expected.charged, expected.refunded), "what localstripe has"
        assert stripe_saga.charges(order["id"]) == (1 if expected.charged else 0)
        assert stripe_saga.shipments(order["id"]) == int(
            expected.outcome is Outcome.COMPLETED and needs_shipment(order)
        )
        assert all(
            entry["status"] in {"succeeded", "canceled"} for entry in stripe_saga.ledger(order["id"])
        ), "nothing can be paid later"
    stripe_saga.assert_books_balance()


def test_no_sample_is_forgotten() -> None:
    assert len(SAMPLES) == len(load_samples()) - 1


@pytest.mark.parametrize("country", ["US", "AQ"])
async def test_a_payment_of_the_shop_s_own_checkout_becomes_the_order_s(
    stripe_saga: StripeWorld, unique: str, country: str
) -> None:
    """Stripe has it without any mark of this installation."""
    reference = stripe_saga.pay(f"checkout-{unique}", PRICE)
    order = an_order(unique, country=country, payment_info={"method": "already_paid", "reference": reference})
    await process_order(order, return_state=True)
    completed, back = country == "US", Decimal(0) if country == "US" else PRICE
    assert ended(unique).outcome is (Outcome.COMPLETED if completed else Outcome.COMPENSATED)
    assert (ended(unique).amount_charged, ended(unique).amount_refunded) == (PRICE, back)
    assert stripe_saga.money(f"checkout-{unique}") == (PRICE, back)
    assert stripe_saga.ledger(unique) == []
    found = read_books(stripe_saga.database_url, await gateway_totals(gateway()))
    assert found.balanced, found.rows
    assert [each async for each in reconcile(gateway(), LONG_AGO, fix=False)] == []


async def test_a_second_try_pays_with_another_card_and_refunds_the_late_one(
    stripe_saga: StripeWorld, unique: str
) -> None:
    """Stripe keeps a declined payment open, and the number of the try with each payment."""
    order_id = f"AGAIN-{unique}"
    await process_order(paid_by("pm_card_chargeCustomerFail", an_order(order_id)), return_state=True)
    assert ended(order_id).outcome is Outcome.COMPENSATED
    late = await gateway().create(
        order_id=order_id,
        amount=PRICE,
        currency="USD",
        method="credit_card",
        card_last4=None,
        token="pm_card_visa",
        key=f"late-{unique}",
    )
    await gateway().confirm(late.id, key=f"confirm-late-{unique}")
    await retry(order_id, NewMeans(token="pm_card_visa"))
    await consumer()
    assert ended(order_id).outcome is Outcome.COMPLETED
    assert stripe_saga.money(order_id) == (2 * PRICE, PRICE)
    payments = {payment.id: payment for payment in await gateway().find(order_id)}
    assert payments[late.id].kept == 0
    assert sorted(payment.try_number for payment in payments.values()) == [1, 1, 2]
    assert [p.try_number for p in payments.values() if p.kept > 0] == [2]
    stripe_saga.assert_books_balance()


async def test_without_a_token_an_order_is_compensated_with_its_reason(
    stripe_saga: StripeWorld, unique: str
) -> None:
    await process_order(an_order(unique), return_state=True)
    assert (ended(unique).outcome, ended(unique).failing_step) == (Outcome.COMPENSATED, "process_payment")
    assert "payment_info.token" in ended(unique).reasons[0]
    assert stripe_saga.ledger(unique) == []
    assert stripe_saga.stock("PROD-001")[1] == 0


async def test_an_order_waits_for_its_customer_and_keeps_its_stock(
    stripe_saga: StripeWorld, unique: str
) -> None:
    """While others continue."""
    other = f"{unique}-other"
    intake.submit([stripe_saga.asking(unique), paid_by("pm_card_visa", an_order(other))])
    await consumer()

    assert ended(unique).outcome is None
    assert ended(other).outcome is Outcome.COMPLETED
    assert [entry["status"] for entry in stripe_saga.ledger(unique)] == ["requires_action"]
    assert stripe_saga.stock("PROD-001")[1] == 1, "its piece is reserved"
    stripe_saga.sql(
        "UPDATE reservation SET expires_at = now() + interval '1 minute' WHERE order_id = :id", id=unique
    )
    stripe_saga.sql("UPDATE customer_order SET not_before = NULL WHERE id = :id", id=unique)
    await consumer()
    assert ended(unique).outcome is None
    (left,) = stripe_saga.sql(
        "SELECT extract(epoch FROM expires_at - now()) AS seconds FROM reservation WHERE order_id = :id",
        id=unique,
    )
    assert left.seconds > settings().inventory.reservation_minutes * 60 - 30, (
        "it waits for longer than stock is reserved"
    )

    (entry,) = stripe_saga.ledger(unique)
    stripe_saga.stripe.authenticate(entry["id"], success=True)
    stripe_saga.sql("UPDATE customer_order SET not_before = NULL WHERE id = :id", id=unique)
    await consumer()
    assert ended(unique).outcome is Outcome.COMPLETED
    assert stripe_saga.charges(unique) == 1
    assert stripe_saga.shipments(unique) == 1
    stripe_saga.assert_books_balance()


@pytest.mark.parametrize("when", ["before it is charged", "before it is refunded"])
async def test_a_key_that_is_not_accepted_undoes_no_order(
    stripe_saga: StripeWorld, unique: str, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A rolled key must not send all waiting orders to manual review."""
    ids = [f"{unique}-{number}" for number in range(8)]
    charged = when == "before it is refunded"
    intake.submit(
        [paid_by("pm_card_visa", an_order(order_id, country="AQ" if charged else "US")) for order_id in ids]
    )
    key = settings().stripe.api_key
    if charged:  # by a worker that is gone
        for order_id in ids:
            await _pay(order_id, confirm=True)
    await close_gateway()
    monkeypatch.setenv("STRIPE_API_KEY", "rk_rolled_away")  # localstripe takes no such keys
    settings.cache_clear()
    await asyncio.wait_for(consumer(), 60)
    rows = stripe_saga.sql("SELECT outcome, waits_for, lease_id FROM customer_order")
    assert [tuple(row) for row in rows] == [(None, "payment_gateway_unavailable", None)] * 8
    assert stripe_saga.sql("SELECT 1 FROM attention") == []

    await close_gateway()
    assert key is not None
    monkeypatch.setenv("STRIPE_API_KEY", key.get_secret_value())
    settings.cache_clear()
    stripe_saga.sql("UPDATE customer_order SET not_before = NULL")
    await consumer()
    assert {ended(order_id).outcome for order_id in ids} == {
        Outcome.COMPENSATED if charged else Outcome.COMPLETED
    }
    back = Decimal("999.99") if charged else Decimal(0)
    assert [stripe_saga.money(order_id) for order_id in ids] == [(Decimal("999.99"), back)] * 8
    assert stripe_saga.stock("PROD-001")[1] == 0
    stripe_saga.assert_books_balance()


async def test_a_stripe_event_during_postponing_is_not_missed(stripe_saga: StripeWorld, unique: str) -> None:
    """Its worker has polled already, and no listener waits yet."""
    mark = stripe_saga.installation
    intake.submit([an_order(unique)])
    async with lease(ORDERS) as mine:
        async with transaction() as tx:
            (order,) = await claims.claim(tx, ORDERS, mine, most=1, ids=[unique])
        assert not (
            await inbox.store(
                PaymentEvent("evt_1", "payment_intent.succeeded", datetime.now(UTC), "pi_1", unique, mark)
            )
        ).woke
        await postpone([order], 60, PaymentNeedsCustomer(60))
    ((pause,),) = stripe_saga.sql("SELECT not_before - now() FROM customer_order")
    assert pause.total_seconds() <= 1


async def test_a_run_of_its_own_waits_for_its_customer(stripe_saga: StripeWorld, unique: str) -> None:
    run = asyncio.create_task(
        asyncio.to_thread(lambda: asyncio.run(_in_a_loop_of_its_own(stripe_saga.asking(unique))))
    )

    async def asked() -> bool:
        return [entry["status"] for entry in stripe_saga.ledger(unique)] == ["requires_action"]

    await until(asked, 60, "the bank to ask")
    stripe_saga.stripe.authenticate(stripe_saga.ledger(unique)[0]["id"], success=True)
    await asyncio.wait_for(run, 60)
    assert ended(unique).outcome is Outcome.COMPLETED
    assert stripe_saga.charges(unique) == 1


async def test_a_run_that_is_cancelled_while_the_bank_asks_is_undone_at_once(
    stripe_saga: StripeWorld, unique: str
) -> None:
    run = asyncio.create_task(process_order(stripe_saga.asking(unique), return_state=True))  # type: ignore[call-overload]

    async def postpone() -> bool:
        return bool(
            stripe_saga.sql("SELECT 1 FROM customer_order WHERE waits_for IS NOT NULL AND lease_id IS NULL")
        )

    await until(postpone, 60, "the bank to ask")
    assert stripe_saga.stock("PROD-001")[1] == 1
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    assert (ended(unique).outcome, ended(unique).reasons) == (
        Outcome.COMPENSATED,
        ["cancelled: its run was cancelled"],
    )
    assert [entry["status"] for entry in stripe_saga.ledger(unique)] == ["canceled"], (
        "it cannot be charged later"
    )
    assert stripe_saga.stock("PROD-001")[1] == 0
    stripe_saga.assert_books_balance()


async def _in_a_loop_of_its_own(order: dict[str, Any]) -> None:
    await process_order(order, return_state=True)  # type: ignore[call-overload]


async def test_a_customer_who_declines_gets_nothing(stripe_saga: StripeWorld, unique: str) -> None:
    intake.submit([stripe_saga.asking(unique)])
    await consumer()
    stripe_saga.stripe.authenticate(stripe_saga.ledger(unique)[0]["id"], success=False)
    stripe_saga.sql("UPDATE customer_order SET not_before = NULL WHERE id = :id", id=unique)
    await consumer()
    assert (ended(unique).outcome, ended(unique).failing_step) == (Outcome.COMPENSATED, "process_payment")
    assert "authentication" in ended(unique).reasons[0]
    assert stripe_saga.charges(unique) == 0
    assert stripe_saga.stock("PROD-001")[1] == 0


async def test_an_order_stops_waiting_for_a_customer_who_does_not_respond(
    stripe_saga: StripeWorld, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYMENT_CUSTOMER_MINUTES", "0.00001")
    settings.cache_clear()
    intake.submit([stripe_saga.asking(unique)])
    await consumer()
    assert (ended(unique).outcome, ended(unique).failing_step) == (Outcome.COMPENSATED, "process_payment")
    assert "in time" in ended(unique).reasons[0]
    assert [entry["status"] for entry in stripe_saga.ledger(unique)] == ["canceled"], (
        "it cannot be charged later"
    )
    assert stripe_saga.stock("PROD-001")[1] == 0
    stripe_saga.assert_books_balance()


async def test_reconciliation_cancels_what_was_left_and_refunds_what_was_charged_too_late(
    stripe_saga: StripeWorld, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECONCILIATION_GRACE_SECONDS", "0")
    settings.cache_clear()
    paid, declined = f"{unique}-paid", f"{unique}-declined"
    intake.submit(
        [paid_by("pm_card_visa", an_order(paid)), paid_by("pm_card_chargeCustomerFail", an_order(declined))]
    )
    await consumer()
    await _pay(paid, confirm=False)
    await _pay(declined, confirm=True)

    found = [each async for each in reconcile(gateway(), LONG_AGO) if each.order_id in {paid, declined}]

    assert {(each.order_id, each.kind, each.repaired) for each in found} == {
        (paid, Kind.LEFT_UNCONFIRMED, True),
        (declined, Kind.CHARGED_NOT_COMPLETED, True),
    }
    assert sorted(entry["status"] for entry in stripe_saga.ledger(paid)) == ["canceled", "succeeded"]
    assert stripe_saga.money(paid) == (Decimal("999.99"), 0)
    assert stripe_saga.money(declined) == (Decimal("999.99"), Decimal("999.99"))
    assert [each async for each in reconcile(gateway(), LONG_AGO) if each.order_id in {paid, declined}] == []
    stripe_saga.assert_books_balance()


async def _pay(order_id: str, *, confirm: bool) -> None:
    """Once more, unexpectedly."""
    made = await gateway().create(
        order_id=order_id,
        amount=Decimal("999.99"),
        currency="USD",
        method="credit_card",
        card_last4=None,
        token="pm_card_visa",
        key=f"late-{order_id}",
    )
    if confirm:
        await gateway().confirm(made.id, key=f"confirm-late-{order_id}")
