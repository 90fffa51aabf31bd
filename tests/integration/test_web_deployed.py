"""What the web app starts is run by a worker: an order that came over HTTP, and an event of the gateway."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from deployments.local.programs import Worker
from deployments.trigger import start_handling_events
from shop.orders.outcomes import Outcome
from shop.payments.events import inbox
from shop.payments.events.inbox import PaymentEvent
from shop.payments.gateways import gateway
from shop.settings import settings
from tests.integration.web import KEY, served
from tests.integration.world import World, an_order
from tests.waiting import until


@pytest.mark.slow
async def test_an_order_and_a_late_charge_reach_their_ends(
    saga: World, worker: Worker, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDERS_API_KEY", KEY)
    settings.cache_clear()
    payment: dict[str, Any] = {
        "order_id": unique,
        "amount": Decimal("999.99"),
        "currency": "USD",
        "method": "credit_card",
    }
    with served() as web:
        web.post("/orders", json=an_order(unique, card="0000")).raise_for_status()

        async def ended() -> bool:
            return web.get(f"/orders/{unique}").json()["outcome"] == Outcome.COMPENSATED

        await until(ended, 90, "the pending lane to be started")
        made = await gateway().create(**payment, card_last4="1234", token=None, key=f"late-{unique}")
        await gateway().confirm(made.id, key=f"late-confirm-{unique}")
        await inbox.store(
            PaymentEvent("evt_1", "payment_intent.succeeded", datetime.now(UTC), made.id, unique)
        )

        async def given_back() -> bool:
            return web.get(f"/orders/{unique}").json()["amount_refunded"] == "999.99"

        await asyncio.to_thread(start_handling_events)
        await until(given_back, 90, "handle-payment-events to be started")
        assert saga.money(unique) == (Decimal("999.99"), Decimal("999.99"))
