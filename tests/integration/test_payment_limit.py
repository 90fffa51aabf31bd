"""The limit of calls to the gateway holds for all workers together (`PAYMENT_CALLS`) and for each process
(`PAYMENT_CONCURRENCY`): measured by the gateway's concurrent requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from deployments.environment import environment
from flows.housekeeping import housekeeping
from flows.process_pending_orders import process_pending_orders
from shop.payments.gateways import close_gateway
from shop.settings import settings
from tests.integration.counting_gateway import Counting, assert_paid, counting_gateway, submitted
from tests.integration.world import World

ORDERS, OWN = 16, 8
DEAD = "00000000-0000-0000-0000-00000000000d"


@contextmanager
def calls(limit: int) -> Iterator[None]:
    """All workers together may make so many calls at once."""
    with environment({"PAYMENT_CALLS": str(limit)}):
        settings.cache_clear()
        yield
    settings.cache_clear()


@pytest.fixture
async def counted(saga: World, unique: str) -> AsyncIterator[Counting]:
    """The gateway, slow enough to have several requests at once; what it had is counted."""
    saga.misbehave(latency_ms=60)
    with ExitStack() as stack:
        counting = stack.enter_context(counting_gateway(saga.gateway_url))
        stack.enter_context(
            environment({"PAYMENT_GATEWAY_URL": counting.url, "PAYMENT_CONCURRENCY": str(OWN)})
        )
        settings.cache_clear()
        await close_gateway()
        yield counting
        await close_gateway()
    settings.cache_clear()
    saga.misbehave(latency_ms=0)


@pytest.mark.parametrize("limit", [3, 1])
@pytest.mark.short_form("1")
async def test_a_limit_below_the_processs_own_is_kept(
    saga: World, counted: Counting, unique: str, limit: int
) -> None:
    ids = submitted(f"LIMIT-{unique}", ORDERS)
    with calls(limit):
        await process_pending_orders(consumer_seconds=0)
    assert_paid(saga, ids)
    assert counted.requests >= 2 * ORDERS
    assert counted.most <= limit


async def test_recovery_keeps_it_too(saga: World, counted: Counting, unique: str) -> None:
    """It takes its share for each of its task runs, and not for the whole run."""
    ids = submitted(f"LIMIT-{unique}", ORDERS)
    saga.sql("UPDATE customer_order SET lease_id = :dead, fence = 1", dead=DEAD)
    with calls(3):
        await housekeeping()
    assert_paid(saga, ids)
    assert counted.most <= 3


async def test_without_a_narrower_limit_the_processs_own_holds(
    saga: World, counted: Counting, unique: str
) -> None:
    ids = submitted(f"LIMIT-{unique}", ORDERS)
    with calls(64):
        await process_pending_orders(consumer_seconds=0)
    assert_paid(saga, ids)
    assert 3 < counted.most <= OWN
