"""Cancelling over HTTP and on the command line: previewed, stored, done by a worker. Checked against the
gateway's ledger and the stock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from deployments.cli import order_saga
from deployments.environment import environment
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.orders import intake
from shop.orders.outcomes import Outcome
from tests.integration.test_web_orders import NO_SERVER, problem
from tests.integration.web import KEY, served
from tests.integration.world import World, an_order

PRICE = Decimal("999.99")
ASKS = {"reason": "changed their mind", "requested_by": "ann"}


@pytest.fixture
def web(saga: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setenv("ORDERS_API_KEY", KEY)
    with environment({"PREFECT_API_URL": NO_SERVER}), served() as client:
        yield client


async def call(client: httpx.Client, method: str, path: str, **more: Any) -> httpx.Response:
    return await asyncio.to_thread(client.request, method, path, **more)


async def test_a_shipped_order_is_previewed_and_returned(saga: World, web: httpx.Client, unique: str) -> None:
    order_id = f"SHIPPED-{unique}"
    await process_order(an_order(order_id), return_state=True)
    seen = (await call(web, "GET", f"/orders/{order_id}/cancel")).raise_for_status().json()
    assert (seen["effect"], Decimal(seen["refund"]), seen["refund_is_certain"]) == ("return", PRICE, True)
    assert seen["pieces"] == {"PROD-001": 1}
    assert saga.money(order_id) == (PRICE, 0), "looking changes nothing"

    first = await call(web, "POST", f"/orders/{order_id}/cancel", json=ASKS)
    again = await call(web, "POST", f"/orders/{order_id}/cancel", json=ASKS)
    assert (first.status_code, first.json()["status"]) == (202, "accepted")
    assert (again.status_code, again.json()["status"]) == (202, "under_way")
    assert first.headers["location"] == f"/orders/{order_id}"
    await process_pending_orders(consumer_seconds=0)
    assert saga.order(order_id).outcome == Outcome.COMPENSATED
    assert saga.money(order_id) == (PRICE, PRICE)
    assert saga.stock("PROD-001") == (100, 0)
    late = await call(web, "POST", f"/orders/{order_id}/cancel", json=ASKS)
    assert (late.status_code, late.json()["status"]) == (200, "ended")
    assert (await call(web, "GET", f"/orders/{order_id}/cancel")).json()["effect"] == "nothing"
    assert saga.sql('SELECT action, "by", reason, started_by FROM desk_entry') == [
        ("cancel", "ann", "changed their mind", "the web app")
    ]
    saga.assert_books_balance()


async def test_ids_are_one_segment_whatever_they_contain(saga: World, web: httpx.Client, unique: str) -> None:
    plain, slashed = unique, f"{unique}/cancel"
    intake.submit([an_order(plain), an_order(slashed), an_order("..")])
    status = await call(web, "GET", f"/orders/{quote(slashed, safe='')}")
    assert status.json()["order_id"] == slashed
    preview = await call(web, "GET", f"/orders/{unique}/cancel")
    assert (preview.json()["order_id"], preview.json()["effect"]) == (plain, "cancel")
    preview = await call(web, "GET", f"/orders/{quote(slashed, safe='')}/cancel")
    assert preview.json()["order_id"] == slashed
    done = await call(web, "POST", f"/orders/{quote(slashed, safe='')}/cancel", json=ASKS)
    assert done.json()["order_id"] == slashed
    assert (await call(web, "POST", "/orders/cancel?id=..", json=ASKS)).json()["order_id"] == ".."
    await process_pending_orders(consumer_seconds=0)
    assert [saga.charges(order_id) for order_id in (plain, slashed, "..")] == [1, 0, 0]


async def test_what_is_wrong_is_refused(saga: World, web: httpx.Client, unique: str) -> None:
    intake.submit([an_order(unique)])
    for body, places in (
        ({}, {"#/reason", "#/requested_by"}),
        ({**ASKS, "reason": " \u200b "}, {"#/reason"}),
        ({**ASKS, "reason": "card 4242 4242 4242 4242"}, {"#/reason"}),
        ({**ASKS, "why": "x"}, {"#/why"}),
    ):
        details = problem(await call(web, "POST", f"/orders/{unique}/cancel", json=body), 422)
        assert {each["pointer"] for each in details["errors"]} == places
        assert "4242" not in str(details)
    problem(await call(web, "POST", "/orders/nobody/cancel", json=ASKS), 404)
    problem(await call(web, "GET", "/orders/nobody/cancel"), 404)
    answer = await call(web, "DELETE", f"/orders/{unique}/cancel")
    problem(answer, 405)
    assert set(answer.headers["allow"].split(", ")) == {"GET", "POST"}
    assert saga.order(unique).cancel_requested_at is None


async def test_a_gateway_that_is_silent_limits_the_preview(
    saga: World, web: httpx.Client, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await process_order(an_order(unique), return_state=True)
    monkeypatch.setattr("deployments.web.order_parts._GATEWAY_SECONDS", 0.2)
    saga.misbehave(hang_rate=1)
    try:
        seen = (await call(web, "GET", f"/orders/{unique}/cancel")).raise_for_status().json()
    finally:
        saga.misbehave(hang_rate=0)
    assert (Decimal(seen["refund"]), seen["refund_is_certain"]) == (PRICE, False)


async def test_the_command_shows_before_it_cancels(
    saga: World, unique: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.review.wake_pending_lane", lambda: True)

    async def run(*arguments: str) -> int:
        return await asyncio.to_thread(order_saga, ["cancel", *arguments])

    await process_order(an_order(unique), return_state=True)
    who = ("--reason", "changed their mind", "--by", "ann")
    assert await run(unique, "--dry-run") == 0
    assert "999.99 USD" in capsys.readouterr().out
    assert await run("nobody", *who, "--yes") == 1
    assert await run(unique, "--yes") == 2
    assert await run(unique, *who) == 2, "nobody is there to confirm it"
    assert saga.order(unique).cancel_requested_at is None
    assert await run(unique, *who, "--yes", "--timeout", "0") == 0
    await process_pending_orders(consumer_seconds=0)
    assert saga.money(unique) == (PRICE, PRICE)
    assert await run(unique, *who, "--yes") == 1, "nothing is left to cancel"
