"""Clocks that are wrong and jump: a worker's, which decides nothing, and the database's, which decides who holds a lease."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from shop import intake
from tests.faults.witness import all_ended, assert_mails, assert_right, mixed, stock_up
from tests.integration.world import World
from tests.nursery.nursery import Nursery
from tests.waiting import until

DAY = 86_400
QUICK = {"LEASE_SECONDS": "2", "POLL_SECONDS": "0.2"}


@pytest.mark.slow
async def test_workers_whose_clocks_jump_by_days(saga: World, nursery: Nursery, unique: str) -> None:
    """One is a day ahead, then behind; the other the other way round. Both renew their leases, and neither takes from the other."""
    stock_up(saga)
    orders = mixed(unique, 60)
    *waiting, a, b = orders.values()
    intake.submit(waiting)
    env = {**QUICK, "LEASE_SECONDS": "20"}
    drains = [nursery.drain(batch_size=5, clock=jumps, env=env) for jumps in ([DAY, -DAY], [-DAY, DAY, 0])]
    own_runs = [nursery.order(a, clock=[2 * DAY, -DAY], env=env), nursery.order(b, clock=[-2 * DAY, DAY], env=env)]
    for process in [*drains, *own_runs]:
        process.wait(90)
    assert_right(saga, orders)
    assert_mails(saga, orders)
    for process in [*drains, *own_runs]:
        said = {line.split()[-1] for line in process.log.read_text().splitlines() if line.startswith("the clock says")}
        assert said - {f"{datetime.now(UTC):%Y-%m-%d}"}, "its clock was right"
    assert saga.sql("SELECT max(takeovers) FROM customer_order") == [(0,)], "no lease was thought to be over"
    assert saga.sql("SELECT count(*) FROM customer_order WHERE started_at > now() OR finished_at > now() + interval '1 minute'") == [(0,)]


@pytest.mark.parametrize("jump", ["1 hour", pytest.param("30 days", marks=pytest.mark.slow)])
async def test_the_database_s_clock_jumps_ahead_while_many_work(saga: World, nursery: Nursery, unique: str, jump: str) -> None:
    """Seen from every row that holds a time, that is: all leases are over at once, again and again, although their holders live.

    Something is done between two jumps, and there are not too many: on a quick machine they would outpace the workers else.
    """
    stock_up(saga)
    orders = mixed(unique, 90, flaky=False)
    intake.submit(orders.values())
    saga.misbehave(latency_ms=100)
    # One jump may move an order more than once, until somebody has renewed a lease: to give it up is not what this is about.
    drains = [nursery.drain(300, batch_size=8, env={**QUICK, "MAX_TAKEOVERS": "1000"}) for _ in range(3)]
    jumps, done = 0, 0

    async def ended() -> bool:
        nonlocal jumps, done
        steps = saga.sql("SELECT count(*) FROM order_step WHERE status = 'done'")[0][0]
        if steps != done and jumps < 20:
            done = steps
            jumps += bool(saga.sql(f"UPDATE lease SET until = until - interval '{jump}' RETURNING id"))
        saga.sql(f"UPDATE customer_order SET not_before = not_before - interval '{jump}' WHERE not_before IS NOT NULL")
        return jumps > 5 and all_ended(saga, orders)

    try:
        await until(ended, 90, "all orders to end")
    finally:
        saga.misbehave(latency_ms=0)
    assert all(drain.running() for drain in drains)
    assert saga.sql("SELECT max(takeovers) FROM customer_order")[0][0] > 0, "leases were over"

    async def sent() -> bool:
        return not saga.sql("SELECT 1 FROM outbox WHERE sent_at IS NULL")

    await until(sent, 60, "all mails to be sent")
    assert_right(saga, orders)
    assert_mails(saga, orders)
    assert sum((saga.money(order_id)[1] for order_id in orders), Decimal(0)) > 0, "some of the money went back"
