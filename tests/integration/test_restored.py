"""`order-saga restored`: what a restore to an earlier time has lost is looked up at the gateway.
tests/faults/test_restore.py restores a real database; here the rows of orders are gone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from deployments.cli import order_saga
from deployments.environment import environment
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.orders import intake, report
from shop.orders.outcomes import Outcome
from shop.payments.gateways import gateway
from shop.reconciliation.restored import take_up
from shop.review.retry import NewMeans, retry
from tests.integration.world import World, an_order

PRICE = Decimal("999.99")
LONG_AGO = "2020-01-01T00:00+00:00"


def lose(saga: World, *order_ids: str) -> None:
    """What the database had of these orders, and their effect on the stock."""
    for table, key in (
        ("order_step", "order_id"),
        ("shipment", "order_id"),
        ("reservation", "order_id"),
        ("outbox", "order_id"),
        ("customer_interaction", "order_id"),
        ("customer_order", "id"),
    ):
        saga.sql(f"DELETE FROM {table} WHERE {key} = ANY(:ids)", ids=list(order_ids))
    saga.sql("UPDATE product SET on_hand = received, reserved = 0")


async def restored(time: str = LONG_AGO) -> int:
    return await asyncio.to_thread(order_saga, ["restored", time])


@pytest.mark.parametrize("lane", ["own run", "pending"])
async def test_a_charge_is_found_or_refunded(saga: World, unique: str, lane: str) -> None:
    """Whatever becomes of the order this time: it completes, its goods are sold out, or it is another."""
    good, sold_out, invalid, cheaper = sent = [
        f"{unique}-{name}" for name in ("good", "sold-out", "invalid", "cheaper")
    ]
    orders = [an_order(order_id) for order_id in sent]
    for order in orders:
        await process_order(order, return_state=True)
        assert saga.money(order["id"]) == (PRICE, 0)
    lose(saga, *sent)
    saga.misbehave(forget_keys=True)
    assert await restored() == 0
    again = [
        orders[0],
        an_order(sold_out, product="OUT-OF-STOCK"),
        an_order(invalid, price="-1"),
        an_order(cheaper, price="500.00"),
    ]
    if lane == "pending":
        intake.submit(again)
        await process_pending_orders(consumer_seconds=0)
    else:
        for order in again:
            await process_order(order, return_state=True)
    saga.misbehave(forget_keys=False)
    ends = {order_id: end.outcome for order_id, end in report.read(sent).items()}
    assert ends[good] is Outcome.COMPLETED
    assert ends[sold_out] in {Outcome.COMPENSATED, Outcome.OUT_OF_STOCK}
    for order_id in (invalid, cheaper):
        assert ends[order_id] is Outcome.NEEDS_ATTENTION, "nothing says which amount was right"
    assert [saga.money(order_id) for order_id in sent] == [
        (PRICE, 0),
        (PRICE, PRICE),
        (PRICE, 0),
        (PRICE, 0),
    ]
    assert [saga.charges(order_id) for order_id in sent] == [1, 1, 1, 1]
    saga.assert_books_balance()


async def test_an_open_order_that_lost_its_payment(saga: World, unique: str) -> None:
    """It is known, and its journal ends before the payment."""
    await process_order(an_order(unique), return_state=True)
    lose(saga, unique)
    intake.submit([an_order(unique)])
    saga.misbehave(forget_keys=True)
    assert [await restored() for _ in range(2)] == [0, 0], "again, it changes nothing"
    await process_pending_orders(consumer_seconds=0)
    saga.misbehave(forget_keys=False)
    assert report.read([unique])[unique].outcome is Outcome.COMPLETED
    assert saga.charges(unique) == 1
    saga.assert_books_balance()


async def test_a_time_that_is_too_late_misses_nothing(saga: World, unique: str) -> None:
    """The newest order that the database has counts."""
    kept, lost = f"{unique}-kept", f"{unique}-lost"
    for order_id in (kept, lost):
        await process_order(an_order(order_id), return_state=True)
    lose(saga, lost)
    too_late = datetime.now(UTC) + timedelta(hours=2)
    assert await restored(too_late.isoformat()) == 2
    found = await take_up(gateway(), too_late)
    assert found.unknown == {lost: {"USD": PRICE}}
    assert found.since < too_late


async def test_an_open_order_that_was_paid_with_another_card_since(saga: World, unique: str) -> None:
    """Its journal has the payment that was declined, and knows of no later try."""
    order = an_order(unique, card="0000")
    await process_order(order, return_state=True)
    (declined,) = saga.ledger(unique)
    await retry(unique, NewMeans(card_last4="4242"), requested_by="ann")
    await process_pending_orders(consumer_seconds=0)
    assert saga.money(unique) == (PRICE, 0)
    lose(saga, unique)
    intake.submit([order])
    saga.sql(
        "INSERT INTO order_step (order_id, step, status, undo_due, notes) "
        "VALUES (:id, 'process_payment', 'begun', true, "
        "jsonb_build_object('payment_id', CAST(:payment AS text)))",
        id=unique,
        payment=declined["id"],
    )
    saga.sql("UPDATE customer_order SET fence = fence + 1 WHERE id = :id", id=unique)
    assert await restored() == 0
    await process_pending_orders(consumer_seconds=0)
    assert report.read([unique])[unique].outcome is Outcome.COMPLETED
    assert saga.money(unique) == (PRICE, 0)
    assert saga.charges(unique) == 1
    saga.assert_books_balance()


async def test_a_new_parcel_has_a_new_number(saga: World, unique: str) -> None:
    await process_order(an_order(unique), return_state=True)
    (before,) = saga.sql("SELECT serial FROM shipment")[0]
    saga.sql("SELECT setval(pg_get_serial_sequence('shipment', 'serial'), 1)")
    assert await restored() == 0
    await process_order(an_order(f"{unique}-next"), return_state=True)
    (after,) = saga.sql("SELECT max(serial) FROM shipment")[0]
    assert after > before + 100_000


async def test_what_it_cannot_do(saga: World, capfd: pytest.CaptureFixture[str]) -> None:
    assert await restored("yesterday") == 2
    with environment({"PAYMENT_GATEWAY_URL": "http://127.0.0.1:9"}):
        assert await restored() == 1
    assert capfd.readouterr().err.strip()
