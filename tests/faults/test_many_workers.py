"""Many workers on the same orders: whoever is first, each effect happens once."""

from __future__ import annotations

from collections import Counter

import pytest

from shop.orders import intake
from tests.faults.witness import assert_mails, assert_right, mixed, order_of, stock_up
from tests.integration.world import World
from tests.worker_forkserver.forkserver import Forkserver


@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.slow
async def test_workers_on_the_same_orders(
    saga: World, forkserver: Forkserver, unique: str, workers: int
) -> None:
    """Consumers on 200 orders; some of these are at the same time sent to `process_order`, twice."""
    stock_up(saga)
    orders = mixed(unique, 200)
    intake.submit(orders.values())
    saga.misbehave(latency_ms=50)  # or one is done before the others have begun
    consumers = [forkserver.consumer(batch_size=10) for _ in range(workers)]
    own_runs = [forkserver.order(orders[order_id]) for order_id in [*list(orders)[:3], *list(orders)[:3]]]
    taken = [consumer.wait(90)["orders"] for consumer in consumers]
    for run in own_runs:
        run.wait(60)
    saga.misbehave(latency_ms=0)
    assert sum(count > 0 for count in taken) > 1, taken
    assert_right(saga, orders)
    assert_mails(saga, orders)


async def test_the_same_order_submitted_50_times_at_once(
    saga: World, forkserver: Forkserver, unique: str
) -> None:
    """From 5 processes with 10 threads each,
    while a consumer and three runs of its own already wait for it."""
    stock_up(saga)
    order = order_of("good", unique)
    consumer = forkserver.consumer(5)
    senders = [forkserver.process("submit", orders=[order], threads=10) for _ in range(5)]
    own_runs = [forkserver.order(order) for _ in range(3)]
    receipts = Counter(status for sender in senders for status in sender.wait(60))
    assert receipts["known"] + receipts["accepted"] == 50
    assert receipts["accepted"] <= 1, "one of the runs of its own may have been first"
    assert {run.wait(60) for run in own_runs} == {"Completed"}
    consumer.wait(60)
    assert_right(saga, {order["id"]: order})
    assert_mails(saga, {order["id"]: order})
