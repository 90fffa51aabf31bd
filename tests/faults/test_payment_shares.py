"""Several processes share the limit of calls to the gateway; what one had that was killed is soon free."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import pytest

from deployments.environment import environment
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.payments.gateways import PAYMENT_GATEWAY, close_gateway
from shop.settings import settings
from tests.integration.counting_gateway import Counting, assert_paid, counting_gateway, submitted
from tests.integration.world import World, an_order
from tests.waiting import until
from tests.worker_forkserver.forkserver import Forkserver

LIMIT, ORDERS = 3, 16


@pytest.fixture
async def counted(saga: World) -> AsyncIterator[Counting]:
    """The gateway, slow enough to have several requests at once; what it had is counted. All workers together
    may make three."""
    saga.misbehave(latency_ms=60)
    with counting_gateway(saga.gateway_url) as counting:
        with environment({"PAYMENT_GATEWAY_URL": counting.url, "PAYMENT_CALLS": str(LIMIT)}):
            settings.cache_clear()
            await close_gateway()
            yield counting
            await close_gateway()
        settings.cache_clear()
    saga.misbehave(latency_ms=0)


def held(saga: World) -> list[int]:
    """What each live worker has of the limit."""
    rows = saga.sql(
        "SELECT CAST(shares -> :name ->> 0 AS int) FROM lease WHERE until > now() AND shares ? :name",
        name=PAYMENT_GATEWAY.name,
    )
    return sorted(row[0] for row in rows)


async def test_consumers_and_a_single_order_share_it(
    saga: World, counted: Counting, forkserver: Forkserver, unique: str
) -> None:
    """Two consumers want more than there is, and have it for as long as they live: an order in a run of its
    own is paid all the same, and never are there more calls than the limit."""
    for _ in range(2):
        forkserver.consumer(300, batch_size=4)

    async def both() -> bool:
        return held(saga) == [1, 2]

    await until(both, 30, "the consumers to share the limit")
    ids = submitted(f"SHARE-{unique}", ORDERS)
    own = an_order(f"SHARE-{unique}-own", product="PROD-004", price="249.00")
    state = await process_order(own, return_state=True)  # type: ignore[call-overload]
    assert state.name == "Completed"

    async def ended() -> bool:
        return saga.sql("SELECT count(*) FROM customer_order WHERE outcome IS NULL") == [(0,)]

    await until(ended, 30, "the others to end")
    assert_paid(saga, [*ids, str(own["id"])])
    assert counted.most <= LIMIT


async def test_what_a_killed_worker_had_is_free_when_its_lease_ends(
    saga: World, counted: Counting, forkserver: Forkserver, unique: str
) -> None:
    """It had all that there is."""
    consumer = forkserver.consumer(300)

    async def has_all() -> bool:
        return held(saga) == [LIMIT]

    await until(has_all, 30, "the consumer to have its share")
    ids = submitted(f"SHARE-{unique}", ORDERS)
    consumer.signal(signal.SIGKILL)
    await process_pending_orders(consumer_seconds=0)
    assert_paid(saga, ids)
    assert counted.most <= LIMIT
