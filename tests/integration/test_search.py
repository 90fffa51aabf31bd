"""Orders are listed and searched: over HTTP, and on the command line; real HTTP, real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from deployments.cli import order_saga
from deployments.environment import environment
from flows.process_pending_orders import process_pending_orders
from shop.orders import intake
from shop.orders.outcomes import Outcome
from shop.orders.search import _CONDITIONS, _query
from shop.retention.customers import erase_customers
from tests.integration.test_web_orders import NO_SERVER, problem
from tests.integration.web import KEY, served
from tests.integration.world import World, an_order


@pytest.fixture
def web(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setenv("ORDERS_API_KEY", KEY)
    with environment({"PREFECT_API_URL": NO_SERVER}), served() as client:
        yield client


def ids(answer: httpx.Response) -> list[str]:
    return [order["order_id"] for order in answer.raise_for_status().json()["orders"]]


def walk(web: httpx.Client, **query: Any) -> list[str]:
    """All pages' orders."""
    found: list[str] = []
    answer = web.get("/orders", params=query)
    while True:
        page = ids(answer)
        assert page
        found += page
        following = answer.json()["next"]
        assert ("next" in answer.links) == (following is not None)
        if following is None:
            return found
        assert answer.links["next"]["url"] == following
        answer = web.get(following)


def test_pages_are_complete_also_while_orders_come(web: httpx.Client, world: World) -> None:
    orders = [an_order(f"N{number}", customer_id=f"C{number % 2}") for number in range(25)]
    intake.submit(orders[:5])
    intake.submit(orders[5:])
    newest = [order["id"] for order in reversed(orders)]
    assert walk(web, limit=7) == newest
    assert walk(web, limit=500) == newest
    assert walk(web, limit=3, customer="C1", status="open") == [i for i in newest if int(i[1:]) % 2]
    first = web.get("/orders", params={"limit": 10})
    intake.submit([an_order("LATER")])
    assert ids(web.get(first.json()["next"])) == newest[10:20]


async def test_every_filter_alone_and_together(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ORDERS_API_KEY", KEY)
    done = {
        "GOOD": an_order(f"GOOD-{unique}", customer_email="Ann.Lee@Example.com", customer_id="ann"),
        "BAD": an_order(f"BAD-{unique}", total_amount="1.00", customer_id="ann"),
        "SHORT": an_order(f"SHORT-{unique}", product="OUT-OF-STOCK", customer_id="bob"),
        "DECLINED": an_order(f"DECLINED-{unique}", card="0000", customer_id="bob"),
    }
    intake.submit(list(done.values()))
    await process_pending_orders(consumer_seconds=0)
    between = saga.sql("SELECT clock_timestamp()")[0][0]
    waiting = an_order(f"WAITING-{unique}", customer_id="x" * 3000)
    intake.submit([waiting])

    def found(**query: Any) -> set[str]:
        return {order_id.removesuffix(f"-{unique}") for order_id in ids(client.get("/orders", params=query))}

    with environment({"PREFECT_API_URL": NO_SERVER}), served() as client:
        assert found() == {*done, "WAITING"}
        assert found(outcome="completed") == {"GOOD"}
        assert found(status="out_of_stock") == {"SHORT"}
        assert found(status="open") == found(status="received") == {"WAITING"}
        assert found(status="under_way") == found(status="shipped") == set()
        assert found(customer="ann") == {"GOOD", "BAD"}
        assert found(customer="Ann") == set()
        assert found(customer="ann", outcome="rejected") == {"BAD"}
        assert found(email="ANN.LEE@example.COM") == {"GOOD"}
        assert found(since=between.isoformat()) == {"WAITING"}
        assert found(until=between.isoformat()) == {*done}
        assert found(until=between.astimezone(UTC).replace(tzinfo=None).isoformat()) == {*done}
        assert found(customer="a\x00b") == found(email="' OR 1=1 --") == set()
        (good,) = client.get("/orders", params={"outcome": "completed"}).json()["orders"]
        assert (good["total_amount"], good["amount_charged"], good["currency"]) == ("999.99", "999.99", "USD")
        assert "ann" not in json.dumps(good).lower()
        assert client.get("/orders", params={"id": f"GOOD-{unique}"}).json()["outcome"] == "completed"

        for wrong in (
            {"status": "nowhere"},
            {"outcome": "x"},
            {"limit": 0},
            {"limit": 501},
            {"since": "yesterday"},
            {"cursor": "x"},
            {"cursor": "MjAyNi0wMS0wMS8x"},
            {"stauts": "open"},
        ):
            details = problem(client.get("/orders", params=wrong), 422)
            assert [each["parameter"] for each in details["errors"]] == list(wrong)

        async def listed(*options: str) -> list[Any]:
            assert await asyncio.to_thread(order_saga, ["list", "--json", *options]) == 0
            return [json.loads(line)["order_id"] for line in capsys.readouterr().out.splitlines()]

        assert await listed("--status", "out_of_stock") == [f"SHORT-{unique}"]
        assert await listed("--status", "needs-attention") == []
        assert await listed("--email", "ann.lee@example.com", "--since", "1h") == [f"GOOD-{unique}"]
        assert await listed("--until", f"{datetime.now(UTC):%Y-%m-%d}") == []
        assert await listed("--limit", "1") == [f"WAITING-{unique}"]
        assert await asyncio.to_thread(order_saga, ["list"]) == 0
        assert f"DECLINED-{unique}" in capsys.readouterr().out
        for wrong_option in (("--since", "x"), ("--limit", "0"), ("--status", "x")):
            assert await asyncio.to_thread(order_saga, ["list", *wrong_option]) == 2

        saga.sql("UPDATE customer_order SET finished_at = finished_at - interval '9 days'")
        saga.sql("UPDATE outbox SET sent_at = now() WHERE sent_at IS NULL")
        assert await asyncio.to_thread(erase_customers, 8) == 4
        assert (
            found(customer="ann") == found(customer="erased") == found(email="ann.lee@example.com") == set()
        )
        assert found(outcome=str(Outcome.COMPLETED)) == {"GOOD"}


def test_times_are_utc_whatever_the_databases_zone(web: httpx.Client, world: World) -> None:
    name = world.sql("SELECT current_database()")[0][0]
    world.sql(f"ALTER DATABASE {name} SET timezone = 'Asia/Kathmandu'")
    assert world.sql("SHOW timezone") == [("Asia/Kathmandu",)]
    intake.submit([an_order("UTC")])
    (listed,) = web.get("/orders").json()["orders"]
    status = web.get("/orders/UTC").json()
    assert listed["submitted_at"] == status["submitted_at"]
    assert listed["submitted_at"].endswith("Z")


def test_searches_use_their_indexes(world: World) -> None:
    """With many orders. The planner's choice, not a time, is compared."""
    world.sql(
        "INSERT INTO customer_order (id, content, fingerprint, outcome, status, submitted_at, finished_at) "
        "SELECT 'O' || n, "
        "jsonb_build_object('customer_id', 'C' || n, 'customer_email', 'c' || n || '@x.org'), 'f', "
        "'completed', 'completed', now() - n * interval '1 minute', now() FROM generate_series(1, 20000) n"
    )
    world.sql("ANALYZE customer_order")
    values = {"customer": "C77", "email": "C77@x.org", "outcome": "out_of_stock", "limit": 51}
    values |= {"since": datetime(2026, 1, 1, tzinfo=UTC), "after_at": datetime.now(UTC), "after_number": 5}
    for names, index in (
        (["customer"], "customer_order_customer"),
        (["email"], "customer_order_email"),
        (["outcome"], "customer_order_not_completed"),
        (["after"], "customer_order_submitted"),
        ([], "customer_order_submitted"),
    ):
        query = _query([_CONDITIONS[name] for name in names])
        plan = "\n".join(row[0] for row in world.sql(f"EXPLAIN {query}", **values))
        assert index in plan, (names, plan)
        assert "Seq Scan on customer_order" not in plan
