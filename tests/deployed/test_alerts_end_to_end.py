"""Something breaks, and one mail says so; it is repaired,
and one mail says that. Real gateway, Prefect server and mail server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest

from deployments.local.prefect_server import PrefectServer
from deployments.local.programs import Worker
from flows.notify_alert import notify_alert
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from flows.resolve_order import resolve_order
from shop.orders import intake, report
from shop.orders.outcomes import Outcome
from shop.payments.sandbox.behaviour import Fault, Move
from shop.review.resolution import Resolution
from shop.settings import settings
from tasks.alerts import evaluate_alerts
from tests.integration.world import World, an_order, text_of
from tests.mail_server import MailServer, mail_server
from tests.waiting import until

PRICE = Decimal("999.99")


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    """Where mails of this process, and of workers that it starts, go."""
    with mail_server() as server:
        addresses = "from=orders@shop.example&to=oncall@shop.example"
        url = f"mailto://{server.host}:{server.port}?{addresses}&mode=insecure"
        monkeypatch.setenv("ALERT_URLS", url)
        settings.cache_clear()
        yield server


def alerts(server: MailServer) -> list[str]:
    """Subjects of the mails about alerts."""
    return [
        str(taken.mail["Subject"]) for taken in server.taken if taken.recipients == ("oncall@shop.example",)
    ]


async def events(server: PrefectServer, resource: str, since: datetime) -> list[str]:
    asked = {
        "filter": {
            "event": {"prefix": ["order.alert."]},
            "resource": {"id": [resource]},
            "occurred": {
                "since": since.isoformat(),
                "until": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
            },
        }
    }
    async with httpx.AsyncClient(base_url=server.api_url, auth=server.auth, timeout=20) as api:
        found: list[dict[str, Any]] = (
            (await api.post("/events/filter", json=asked)).raise_for_status().json()["events"]
        )
    return sorted(event["event"].rpartition(".")[2] for event in found)


async def test_a_gateway_becomes_unavailable_and_recovers(
    saga: World, prefect_api: PrefectServer, inbox: MailServer, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAYMENT_BREAKER_SECONDS", "0.5")
    monkeypatch.setenv("POLL_SECONDS", "0.2")
    settings.cache_clear()
    began = datetime.now(UTC) - timedelta(seconds=5)
    saga.misbehave(faults=[{"fault": Fault.RESET_BEFORE, "move": move} for move in Move])
    order_ids = [f"UNAVAILABLE-{unique}-{number}" for number in range(3)]
    intake.submit([an_order(order_id) for order_id in order_ids])
    consumer = asyncio.create_task(process_pending_orders(consumer_seconds=300))

    def alerted() -> dict[str, int]:
        raised, cleared = saga.sql("SELECT count(*), count(over_at) FROM alert")[0]
        return {"raised": raised, "cleared": cleared}

    async def watched(what: str) -> bool:
        """Evaluates at once, beside the consumer."""
        saga.sql("UPDATE alert_watch SET judged_at = NULL")
        await evaluate_alerts()
        return alerted()[what] > 0

    try:
        await until(lambda: watched("raised"), 60, "the alert")
        await notify_alert()
        assert alerts(inbox) == ["[The Shop] alert: the payment gateway (sandbox) is unavailable"]
        body = text_of(next(taken.mail for taken in inbox.taken))
        assert unique in body
        assert "The orders continue automatically" in " ".join(body.split())
        assert not await watched("cleared"), "not while it is away"
        await notify_alert()
        assert len(alerts(inbox)) == 1

        saga.misbehave(faults=[])

        async def ended() -> bool:
            return report.count_ended(order_ids) == len(order_ids)

        await until(ended, 90, "the orders to end")
        await until(lambda: watched("cleared"), 60, "the all-clear")
    finally:
        saga.misbehave(faults=[])
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
    await notify_alert()
    await notify_alert()
    assert alerts(inbox)[1:] == ["[The Shop] cleared: the payment gateway (sandbox) is unavailable"]
    assert alerted() == {"raised": 1, "cleared": 1}

    async def events_written() -> bool:
        return await events(prefect_api, "shop.payment-gateway.sandbox", began) == ["cleared", "raised"]

    await until(events_written, 30, "an event for each")
    assert [saga.charges(order_id) for order_id in order_ids] == [1, 1, 1]
    saga.assert_books_balance()


@pytest.mark.usefixtures("prefect_api")
async def test_alerts_are_sent_without_an_automation(
    saga: World, inbox: MailServer, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`evaluate_alerts` sends them itself, a little later."""
    await process_order(an_order(f"STUCK-{unique}", card="0259", country="AQ"), return_state=True)
    assert (await evaluate_alerts())["raised"] == 1
    assert alerts(inbox) == []
    saga.sql("UPDATE alert_notice SET next_attempt_at = now() - interval '3 min'")
    await asyncio.gather(evaluate_alerts(), evaluate_alerts())
    assert alerts(inbox) == [f"[The Shop] alert: order STUCK-{unique} needs a person"]


@pytest.mark.slow
async def test_with_a_worker_schedules_and_automations(
    inbox: MailServer, saga: World, prefect_api: PrefectServer, worker: Worker, unique: str
) -> None:
    """As it is deployed: the test only breaks and repairs the gateway."""
    order_id, began = f"STUCK-{unique}", datetime.now(UTC) - timedelta(seconds=5)
    state = await process_order(an_order(order_id, card="0259", country="AQ"), return_state=True)
    assert state.name == "NeedsAttention"

    async def mails(count: int) -> bool:
        return len(alerts(inbox)) >= count

    await until(lambda: mails(1), 200, "the alert")
    settled = await resolve_order(
        order_id, Resolution.REFUNDED_BY_HAND, "ann", reference="transfer 4711", return_state=True
    )
    assert settled.name == "Compensated"
    await until(lambda: mails(2), 200, "the all-clear")
    assert alerts(inbox) == [
        f"[The Shop] {what}: order {order_id} needs a person" for what in ("alert", "cleared")
    ]

    async def recorded() -> bool:
        return not saga.sql("SELECT 1 FROM alert_notice WHERE way = 'url-1' AND sent_at IS NULL")

    await until(recorded, 30, "the deliveries to be recorded")
    waits = saga.sql("SELECT extract(epoch FROM sent_at - created_at) FROM alert_notice WHERE way = 'url-1'")
    assert all(seconds < 120 for (seconds,) in waits), "the automation sent it, not evaluate_alerts"
    assert await events(prefect_api, f"shop.order.{order_id}", began) == ["cleared", "raised"]
    assert saga.order(order_id).outcome == Outcome.COMPENSATED
    assert saga.money(order_id) == (PRICE, 0)
