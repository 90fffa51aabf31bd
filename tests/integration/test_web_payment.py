"""The payment of an order over HTTP: the client secret is there while the bank waits for the customer, and
nowhere else. Checked against the Stripe server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from decimal import Decimal

import httpx
import pytest

from deployments.environment import environment
from flows.process_pending_orders import process_pending_orders
from shop.orders import intake
from tests.integration.stripe_world import StripeWorld
from tests.integration.test_web_orders import NO_SERVER, problem
from tests.integration.web import KEY, served
from tests.integration.world import World, an_order


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    request.getfixturevalue("stripe_saga" if "stripe_saga" in request.fixturenames else "saga")
    monkeypatch.setenv("ORDERS_API_KEY", KEY)
    with environment({"PREFECT_API_URL": NO_SERVER}), served() as client:
        yield client


async def payment(web: httpx.Client, order_id: str) -> httpx.Response:
    return await asyncio.to_thread(web.get, f"/orders/{order_id}/payment")


async def test_the_secret_is_there_while_the_bank_waits(
    stripe_saga: StripeWorld,
    web: httpx.Client,
    unique: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with caplog.at_level(logging.DEBUG):
        intake.submit([stripe_saga.asking(unique)])
        assert (await payment(web, unique)).json()["status"] == "not_begun"
        await process_pending_orders(consumer_seconds=0)
        (entry,) = stripe_saga.ledger(unique)
        secret = stripe_saga.stripe.get(f"/v1/payment_intents/{entry['id']}")["client_secret"]
        answer = await payment(web, unique)
        assert answer.headers["cache-control"] == "no-store"
        asked = answer.json()
        assert (asked["status"], asked["payment_id"]) == ("needs_customer", entry["id"])
        assert asked["client_secret"] == secret
        assert Decimal(asked["amount_charged"]) == 0

        stripe_saga.stripe.authenticate(entry["id"], success=True)
        stripe_saga.sql("UPDATE customer_order SET not_before = NULL")
        assert (await payment(web, unique)).json()["client_secret"] is None, "nobody is asked any more"
        await process_pending_orders(consumer_seconds=0)
        done = (await payment(web, unique)).json()
        assert (done["status"], done["client_secret"], done["amount_charged"]) == ("charged", None, "999.99")
    out = capfd.readouterr()
    assert secret not in caplog.text + out.out + out.err
    rows = "SELECT o::text FROM customer_order o UNION ALL SELECT s::text FROM order_step s"
    stored = stripe_saga.sql(rows)
    assert secret not in str(stored)
    problem(await payment(web, "nobody"), 404)


async def test_a_gateway_that_is_silent_is_a_problem_that_passes(
    stripe_saga: StripeWorld, web: httpx.Client, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake.submit([stripe_saga.asking(unique)])
    await process_pending_orders(consumer_seconds=0)
    monkeypatch.setattr("deployments.web.payments._GATEWAY_SECONDS", 0)
    answer = await payment(web, unique)
    problem(answer, 503)
    assert answer.headers["retry-after"]


async def test_the_sandbox_asks_no_customer(saga: World, web: httpx.Client, unique: str) -> None:
    declined = f"{unique}-declined"
    intake.submit([an_order(unique), an_order(declined, card="0000")])
    await process_pending_orders(consumer_seconds=0)
    states = {order_id: (await payment(web, order_id)).json()["status"] for order_id in (unique, declined)}
    assert states[unique] == "charged"
    assert states[declined] in {"failed", "undone"}
    assert saga.money(declined) == (0, 0)
