"""Clocks that are wrong and jump: a worker's, which decides nothing,
and the database's, which decides who holds a lease."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import time_machine

from deployments.environment import environment
from deployments.local.prefect_server import PrefectServer
from deployments.trigger import start_own_run
from flows.consumers import start_consumer
from flows.process_pending_orders import process_pending_orders
from shop.orders import intake, report
from shop.orders.intake_content import take_in
from shop.orders.outcomes import Outcome
from shop.review.cancel import ask_to_cancel_sync
from shop.shipping.carriers import close_carriers
from tests.easypost_server import EasyPost
from tests.faults.runs import forget_runs, runs_of
from tests.faults.witness import all_ended, assert_mails, assert_right, mixed, order_of, stock_up
from tests.integration.stripe_world import StripeWorld
from tests.integration.world import World
from tests.waiting import until
from tests.worker_forkserver.forkserver import Forkserver

HOUR, DAY = 3_600, 86_400
WRONG = pytest.mark.parametrize("wrong", [-3 * HOUR, 3 * HOUR], ids=["behind", "ahead"])
QUICK = {"LEASE_SECONDS": "2", "POLL_SECONDS": "0.2"}


@pytest.mark.slow
async def test_workers_whose_clocks_jump_by_days(saga: World, forkserver: Forkserver, unique: str) -> None:
    """One is a day ahead, then behind; the other the other way round.
    Both renew their leases, and neither takes from the other."""
    stock_up(saga)
    orders = mixed(unique, 60)
    *waiting, a, b = orders.values()
    intake.submit(waiting)
    env = {**QUICK, "LEASE_SECONDS": "20"}
    consumers = [
        forkserver.consumer(batch_size=5, clock=jumps, env=env) for jumps in ([DAY, -DAY], [-DAY, DAY, 0])
    ]
    own_runs = [
        forkserver.order(a, clock=[2 * DAY, -DAY], env=env),
        forkserver.order(b, clock=[-2 * DAY, DAY], env=env),
    ]
    for process in [*consumers, *own_runs]:
        process.wait(90)
    assert_right(saga, orders)
    assert_mails(saga, orders)
    for process in [*consumers, *own_runs]:
        dates = {
            line.split()[-1]
            for line in process.log.read_text().splitlines()
            if line.startswith("the clock says")
        }
        assert dates - {f"{datetime.now(UTC):%Y-%m-%d}"}, "its clock was right"
    assert saga.sql("SELECT max(takeovers) FROM customer_order") == [(0,)], "no lease was thought to be over"
    assert saga.sql(
        "SELECT count(*) FROM customer_order "
        "WHERE started_at > now() OR finished_at > now() + interval '1 minute'"
    ) == [(0,)]


@pytest.mark.parametrize("jump", ["1 hour", pytest.param("30 days", marks=pytest.mark.slow)])
@pytest.mark.slow
async def test_the_database_s_clock_jumps_ahead_while_many_work(
    saga: World, forkserver: Forkserver, unique: str, jump: str
) -> None:
    """Seen from every row that holds a time, that is: all leases are over at once,
    again and again, although their holders live.

    Something is done between two jumps, and there are not too many:
    on a quick machine they would outpace the workers else.
    """
    stock_up(saga)
    orders = mixed(unique, 90, flaky=False)
    intake.submit(orders.values())
    saga.misbehave(latency_ms=100)
    # One jump may move an order more than once, until somebody has renewed a lease:
    # to give it up is not what this is about.
    consumers = [
        forkserver.consumer(300, batch_size=8, env={**QUICK, "MAX_TAKEOVERS": "1000"}) for _ in range(3)
    ]
    jumps, done = 0, 0

    async def ended() -> bool:
        nonlocal jumps, done
        steps = saga.sql("SELECT count(*) FROM order_step WHERE status = 'done'")[0][0]
        if steps != done and jumps < 20:
            done = steps
            jumps += bool(saga.sql(f"UPDATE lease SET until = until - interval '{jump}' RETURNING id"))
        saga.sql(
            f"UPDATE customer_order SET not_before = not_before - interval '{jump}' "
            "WHERE not_before IS NOT NULL"
        )
        return jumps > 5 and all_ended(saga, orders)

    try:
        await until(ended, 90, "all orders to end")
    finally:
        saga.misbehave(latency_ms=0)
    assert all(consumer.running() for consumer in consumers)
    assert saga.sql("SELECT max(takeovers) FROM customer_order")[0][0] > 0, "leases were over"

    async def sent() -> bool:
        return not saga.sql("SELECT 1 FROM outbox WHERE sent_at IS NULL")

    await until(sent, 60, "all mails to be sent")
    assert_right(saga, orders)
    assert_mails(saga, orders)
    assert sum((saga.money(order_id)[1] for order_id in orders), Decimal(0)) > 0, (
        "some of the money went back"
    )


@WRONG
@pytest.mark.slow
async def test_a_label_that_a_machine_with_a_wrong_clock_asked_for_may_come_for_as_long_as_any(
    saga: World, easypost_server: EasyPost, forkserver: Forkserver, unique: str, wrong: int
) -> None:
    """It dies before it is answered, and the order is cancelled. Whoever undoes it waits for the label:
    neither too short a time, after which it could still be bought, nor for hours."""
    stock_up(saga)
    order = order_of("good", unique)
    easypost_server.misbehave("buy", "silent", times=1_000, seconds=30)
    try:
        with environment({**easypost_server.settings, "CARRIER_TIMEOUT_SECONDS": "30"}):
            intake.submit([order])
            asking = forkserver.consumer(300, clock=[wrong], env={**QUICK, "LEASE_SECONDS": "60"})

            def asked() -> bool:
                return bool(saga.sql("SELECT 1 FROM order_step WHERE notes ? 'asked_at'"))

            asking.wait_until(asked, 40, "the label to be asked for")
            asking.signal(signal.SIGKILL)
            asking.gone(20)
            ask_to_cancel_sync(order["id"], reason="changed their mind", requested_by="ann")
            saga.sql("UPDATE lease SET until = now() - interval '1 second'")
            easypost_server.behave()
            await process_pending_orders(consumer_seconds=0)
        ((outcome, waits_for, pause),) = saga.sql(
            "SELECT outcome, waits_for, extract(epoch FROM not_before - now()) FROM customer_order"
        )
        assert (outcome, waits_for) == (None, "carrier_unavailable"), "it may come yet"
        assert 0 < pause <= 4 * 30
        await close_carriers()
        saga.sql(
            "UPDATE order_step SET notes = notes "
            "|| jsonb_build_object('asked_at', CAST(notes ->> 'asked_at' AS float) - 4 * 30)"
        )
        saga.sql("UPDATE customer_order SET not_before = NULL")
        with environment({**easypost_server.settings, "CARRIER_TIMEOUT_SECONDS": "30"}):
            await process_pending_orders(consumer_seconds=0)
        assert easypost_server.labels(order["id"]) == []
        assert_right(saga, {order["id"]: order}, {order["id"]: Outcome.COMPENSATED})
    finally:
        easypost_server.behave()
        await close_carriers()


@WRONG
async def test_a_machine_with_a_wrong_clock_waits_for_a_customer_for_as_long_as_any(
    stripe_saga: StripeWorld, forkserver: Forkserver, unique: str, wrong: int
) -> None:
    """Stripe says since when; an order that has waited for a moment has not waited for hours."""
    order = stripe_saga.asking(unique)
    intake.submit([order])
    forkserver.consumer(clock=[wrong], env=QUICK).wait(60)
    ((outcome, waits_for, pause),) = stripe_saga.sql(
        "SELECT outcome, waits_for, extract(epoch FROM not_before - now()) FROM customer_order"
    )
    assert (outcome, waits_for) == (None, "payment_needs_customer")
    assert 0 < pause <= 15, "it has just begun to wait"
    (entry,) = stripe_saga.ledger(unique)
    assert entry["status"] == "requires_action", "the customer can still answer"
    stripe_saga.stripe.authenticate(entry["id"], success=True)
    stripe_saga.sql("UPDATE customer_order SET not_before = NULL")
    forkserver.consumer(clock=[wrong], env=QUICK).wait(60)
    assert report.read([unique])[unique].outcome is Outcome.COMPLETED
    assert stripe_saga.charges(unique) == 1
    assert stripe_saga.shipments(unique) == 1
    stripe_saga.assert_books_balance()


@WRONG
@pytest.mark.short_form("ahead")
def test_what_a_machine_with_a_wrong_clock_starts_is_due_at_once(
    deployed: World, frail_prefect: PrefectServer, unique: str, wrong: int
) -> None:
    """And it knows that a consumer is about to start, whenever that was."""
    started = ("process-pending-orders", "process-order")
    forget_runs(frail_prefect, *started)
    try:
        with time_machine.travel(time.time() + wrong, tick=True):
            assert start_consumer()
            assert not start_consumer(), "one is about to start"
            start_own_run(take_in(order_of("good", unique)))
        due = [
            datetime.fromisoformat(run["expected_start_time"])
            for name in started
            for run in runs_of(frail_prefect, name)
        ]
        assert len(due) == 2
        assert all(abs(when - datetime.now(UTC)) < timedelta(minutes=5) for when in due)
    finally:
        forget_runs(frail_prefect, *started)
