"""The Prefect limit `payment-gateway` holds, also below `PAYMENT_CONCURRENCY`:
told by how many requests the gateway has at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from typing import Any

import httpx
import pytest

from deployments.local.environment import environment
from deployments.local.prefect_server import PrefectServer
from flows.housekeeping import housekeeping
from flows.process_pending_orders import process_pending_orders
from saga.prefect.limits import slots
from shop.orders import intake
from shop.payments.gateways import close_gateway
from shop.payments.limit import PAYMENT_GATEWAY
from tests.integration.counting_gateway import Counting, counting_gateway
from tests.integration.world import World, an_order

ORDERS, OWN = 16, 8
DEAD = "00000000-0000-0000-0000-00000000000d"


@pytest.fixture
def limit(prefect_api: PrefectServer) -> Iterator[Callable[..., None]]:
    """Sets the limit; it is as before at the end."""
    with httpx.Client(base_url=prefect_api.api_url, auth=prefect_api.auth, timeout=20) as api:
        path = f"/v2/concurrency_limits/{PAYMENT_GATEWAY.name}"
        before = api.get(path).raise_for_status().json()

        def change(**values: Any) -> None:
            api.patch(path, json=values).raise_for_status()

        yield change
        change(limit=before["limit"], active=before["active"], active_slots=0)


@pytest.fixture
async def counted(saga: World, unique: str) -> AsyncIterator[Counting]:
    """The gateway, slow enough to have several requests at once; what it had is counted."""
    saga.misbehave(latency_ms=60)
    with ExitStack() as stack:
        counting = stack.enter_context(counting_gateway(saga.gateway_url))
        stack.enter_context(
            environment({"PAYMENT_GATEWAY_URL": counting.url, "PAYMENT_CONCURRENCY": str(OWN)})
        )
        await close_gateway()
        yield counting
        await close_gateway()
    saga.misbehave(latency_ms=0)


def submitted(unique: str) -> list[str]:
    orders = [
        an_order(f"LIMIT-{unique}-{number}", product="PROD-004", price="249.00") for number in range(ORDERS)
    ]
    intake.submit(orders)
    return [str(order["id"]) for order in orders]


def assert_paid(saga: World, ids: list[str]) -> None:
    assert {saga.order(each).outcome for each in ids} == {"completed"}
    assert all(saga.money(each) == (Decimal(249), 0) for each in ids)


@pytest.mark.parametrize("slots_there", [3, 1])
@pytest.mark.short_form("1")
async def test_a_limit_below_the_processs_own_is_kept(
    saga: World, counted: Counting, limit: Callable[..., None], unique: str, slots_there: int
) -> None:
    limit(limit=slots_there)
    ids = submitted(unique)
    await process_pending_orders(consumer_seconds=0)
    assert_paid(saga, ids)
    assert counted.requests >= 2 * ORDERS
    assert counted.most <= slots_there


async def test_recovery_keeps_it_too(
    saga: World, counted: Counting, limit: Callable[..., None], unique: str
) -> None:
    """It holds slots for each of its task runs, and not for the whole run."""
    limit(limit=3)
    ids = submitted(unique)
    saga.sql("UPDATE customer_order SET lease_id = :dead, fence = 1", dead=DEAD)
    await housekeeping()
    assert_paid(saga, ids)
    assert counted.most <= 3


@pytest.mark.parametrize("values", [{"limit": 64}, {"limit": 2, "active": False}], ids=["wide", "off"])
async def test_without_a_narrower_limit_the_processs_own_holds(
    saga: World, counted: Counting, limit: Callable[..., None], unique: str, values: dict[str, Any]
) -> None:
    limit(**values)
    ids = submitted(unique)
    await process_pending_orders(consumer_seconds=0)
    assert_paid(saga, ids)
    assert 3 < counted.most <= OWN


async def test_what_is_asked_for_is_got_at_once(
    saga: World, prefect_api: PrefectServer, limit: Callable[..., None]
) -> None:
    limit(limit=3)
    async with slots(PAYMENT_GATEWAY, occupy=16) as got:
        held = httpx.get(
            f"{prefect_api.api_url}/v2/concurrency_limits/{PAYMENT_GATEWAY.name}",
            auth=prefect_api.auth,
            timeout=20,
        ).json()["active_slots"]
    assert (got, held) == (True, 3)
