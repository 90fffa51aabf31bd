"""What Prometheus reads: over HTTP, parsed by the library of its makers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from flows.process_pending_orders import process_pending_orders
from shop.monitoring.exposition import reading
from shop.monitoring.exposition.endpoint import Exposition, MetricsServer
from shop.orders.intake import submit
from tests.integration.world import World, an_order

TOKEN = "a-token-for-prometheus"


class Scraped:
    """One scrape; values by name and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in self.values, key
                self.values[key] = sample.value

    def __call__(self, name: str, **labels: str) -> float:
        """0 if there is none: a series that has not begun."""
        return self.values.get((f"order_saga_{name}", frozenset(labels.items())), 0.0)

    def all(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        return {
            labels: value for (each, labels), value in self.values.items() if each == f"order_saga_{name}"
        }


@contextmanager
def served(exposition: Exposition) -> Iterator[str]:
    with MetricsServer(exposition, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.port}/metrics"


def scrape(url: str, token: str | None = None) -> Scraped:
    answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"} if token else {}, timeout=30)
    assert answer.status_code == 200, answer.text
    return Scraped(answer.text)


def fresh() -> Scraped:
    """As a process reports it that has just been started."""
    with served(Exposition("a test")) as url:
        return scrape(url)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reading counts."""
    monkeypatch.setattr("shop.monitoring.exposition.reading.count_new.__kwdefaults__", {"every": 0})


async def test_orders_steps_and_money_are_reported(saga: World, unique: str, at_once: None) -> None:
    orders = [an_order(f"GOOD-{unique}-{n}") for n in range(3)]
    orders += [
        an_order(f"DECLINED-{unique}", card="0000"),
        an_order(f"SHORT-{unique}", product="PROD-001", price="1.00"),
    ]
    orders[-1] |= {
        "items": [{"product_id": "PROD-001", "quantity": 9999, "price": "1.00"}],
        "total_amount": "9999.00",
    }
    orders += [an_order(f"REFUSED-{unique}", country="AQ", card="0259", price="249.00")]
    await asyncio.to_thread(submit, orders)
    await process_pending_orders(consumer_seconds=0)
    await asyncio.to_thread(submit, [an_order(f"WAITING-{unique}")])
    # final failures are reported with a delay: shift them into the past
    saga.sql(
        "UPDATE order_step SET undo_ended_at = undo_ended_at - interval '20 s' WHERE undo_status = 'failed'"
    )
    found = await asyncio.to_thread(fresh)
    assert found("database_up") == 1
    assert found.all("orders_total") == {
        frozenset({("outcome", outcome)}): number
        for outcome, number in {
            "completed": 3,
            "compensated": 1,
            "out_of_stock": 1,
            "needs_attention": 1,
            "rejected": 0,
        }.items()
    }
    assert found("order_duration_seconds_count", outcome="completed") == 3
    took = saga.sql(
        "SELECT sum(extract(epoch FROM finished_at - submitted_at)) FROM customer_order "
        "WHERE outcome = 'completed'"
    )[0][0]
    assert found("order_duration_seconds_sum", outcome="completed") == pytest.approx(float(took), rel=0.03)
    for step, done in {
        "validate_order": 6,
        "check_inventory": 5,
        "process_payment": 4,
        "generate_confirmation": 4,
        "fulfill_order": 3,
    }.items():
        assert found("steps_total", step=step, result="done", code="") == done, step
    assert found("steps_total", step="process_payment", result="refused", code="payment_declined") == 1
    assert found("steps_total", step="check_inventory", result="refused", code="out_of_stock") == 1
    assert found("compensations_total", step="check_inventory", result="done") == 2
    assert found("compensations_total", step="process_payment", result="failed") == 1
    assert found("confirmations_total", writer="template") == 4
    assert found("manual_review_orders") == 1
    assert found("needs_attention_orders", step="process_payment") == 1
    charged, refunded = saga.money(f"REFUSED-{unique}")
    assert (
        found("at_risk_amount", currency="USD")
        == found("refunds_owed_amount", currency="USD")
        == float(charged - refunded)
        == 249
    )
    assert found("open_orders", state="waiting") == 1
    assert 0 < found("oldest_open_order_age_seconds") < 60
    on_hand = saga.sql("SELECT sum(on_hand) FROM product")[0][0]
    assert found("inventory_pieces", state="on_hand") == on_hand
    published = [
        *(f"{key}" for key in found.values),
        *(line for line in found.text.splitlines() if line.startswith("#")),
    ]
    for word in (unique, "@", "Main St", "0259"):
        assert word not in "\n".join(published)


async def test_the_reason_for_postponing_is_reported(world: World, unique: str) -> None:
    """Also of those of a batch, whose steps have not failed, but are as good as begun."""
    waiting = {"payment_gateway_unavailable": 2, "carrier_timeout": 1, "payment_needs_customer": 1}
    for number, code in enumerate(Counter(waiting).elements()):
        order = an_order(f"OFF-{unique}-{number}")
        await asyncio.to_thread(submit, [order])
        world.sql(
            "UPDATE customer_order SET waits_for = :code, not_before = now() + interval '1 h' WHERE id = :id",
            code=code,
            id=order["id"],
        )
    none = dict.fromkeys(
        (
            "inventory_unavailable",
            "inventory_timeout",
            "carrier_unavailable",
            "infrastructure",
            "unknown_step",
            "payment_awaited",
        ),
        0,
    )
    found = await asyncio.to_thread(fresh)
    assert {dict(labels)["code"]: orders for labels, orders in found.all("postponed_orders").items()} == {
        **none,
        **waiting,
    }


def test_a_total_never_falls_whatever_becomes_of_its_rows(world: World, at_once: None) -> None:
    def insert(order_id: str, status: str, ago: float, attempts: int = 1) -> None:
        world.sql(
            "INSERT INTO order_step (order_id, step, status, attempts, begun_at, ended_at, error) "
            "VALUES (:id, 'process_payment', CAST(:status AS text), :attempts, "
            "now() - make_interval(secs => :ago + 0.2), now() - make_interval(secs => :ago), "
            "CASE WHEN CAST(:status AS text) = 'failed' THEN '{\"code\": \"payment_timeout\"}'::jsonb END)",
            id=order_id,
            status=status,
            ago=ago,
            attempts=attempts,
        )

    def totals() -> tuple[float, float, float]:
        found = fresh()
        failed = found("steps_total", step="process_payment", result="failed", code="payment_timeout")
        done = found("steps_total", step="process_payment", result="done", code="")
        return done, failed, found("step_duration_seconds_count", step="process_payment")

    for n in range(5):
        insert(f"OLD-{n}", "done", 5000)
    insert("A", "done", 100)
    insert("B", "failed", 100)
    insert("C", "failed", 1)  # it may be tried again any moment: no failure yet
    assert totals() == (6, 1, 7)
    assert totals() == (6, 1, 7)
    world.sql(
        "UPDATE order_step SET status = 'begun', ended_at = NULL, error = NULL, attempts = 2 "
        "WHERE order_id IN ('B', 'C')"
    )
    assert totals() == (6, 1, 7)
    world.sql("UPDATE order_step SET status = 'done', ended_at = now() WHERE order_id IN ('B', 'C')")
    assert totals() == (8, 1, 9)
    assert fresh()("step_retries_total", step="process_payment") == 2
    # minutes later: what was counted as seen is in the total for good, and is not counted again
    world.sql("UPDATE metric_reading SET counted_from = counted_from - interval '1 hour'")
    world.sql("DELETE FROM order_step WHERE order_id LIKE 'OLD%'")
    assert totals() == (8, 1, 9)
    insert("D", "done", 1)
    assert totals() == (9, 1, 10)
    assert totals() == (9, 1, 10)


def test_processes_that_are_asked_at_once_count_nothing_twice(world: World, at_once: None) -> None:
    stop = threading.Event()

    def ends() -> int:
        number = 0
        while not stop.is_set():
            number += 1
            world.sql(
                "INSERT INTO order_step (order_id, step, status, begun_at, ended_at) "
                "VALUES (:id, 'validate_order', 'done', now(), now())",
                id=f"N-{number}",
            )
        return number

    def asks(_: int) -> list[float]:
        return [fresh()("steps_total", step="validate_order", result="done", code="") for _ in range(8)]

    with ThreadPoolExecutor(5) as pool:
        writing = pool.submit(ends)
        seen = list(pool.map(asks, range(4)))
        stop.set()
        written = writing.result(30)
    assert all(row == sorted(row) for row in seen)
    assert fresh()("steps_total", step="validate_order", result="done", code="") == written


def test_an_unavailable_database_is_reported_and_hides_nothing_else(database_url: str) -> None:
    gone = Exposition("a test", database_url="postgresql://nobody@127.0.0.1:1/nothing")
    with served(gone) as url:
        began = time.monotonic()
        found = scrape(url)
        again = scrape(url)
        took = time.monotonic() - began
    assert found("database_up") == again("database_up") == 0
    assert found("process_info", kind="a test") == 1
    assert found.values[("process_resident_memory_bytes", frozenset())] > 1e6
    assert not found.all("orders_total")
    assert took < reading.PATIENCE_SECONDS + 5


def test_a_storm_of_scrapes_costs_one_reading(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: Counter[str] = Counter()
    read_totals = reading.read_totals

    def counted(connection: Any) -> Any:
        reads["of the database"] += 1
        return read_totals(connection)

    monkeypatch.setattr(reading, "read_totals", counted)
    began = time.monotonic()
    with served(Exposition("a test")) as url, ThreadPoolExecutor(20) as pool:
        found = list(pool.map(scrape, [url] * 60))
    assert [each("database_up") for each in found] == [1] * 60
    assert reads["of the database"] <= 1 + (time.monotonic() - began) / reading.KEPT_SECONDS


def test_without_a_token_nothing_is_read(world: World) -> None:
    with served(Exposition("a test", token=TOKEN)) as url:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": TOKEN},
            {"Authorization": "Bearer"},
        ):
            answer = httpx.get(url, headers=headers, timeout=10)
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert "order_saga" not in answer.text
        assert scrape(url, TOKEN)("database_up") == 1
        assert httpx.get(url.removesuffix("/metrics"), timeout=10).status_code == 404


def test_labels_stay_few_whatever_orders_contain(world: World, at_once: None) -> None:
    for n in range(50):
        error = f'{{"code": "made up {n}"}}'
        world.sql(
            "INSERT INTO order_step (order_id, step, status, begun_at, ended_at, error) "
            "VALUES (:id, 'process_payment', 'failed', now() - interval '60 s', "
            "now() - interval '59 s', CAST(:error AS jsonb))",
            id=f"O-{n}",
            error=error,
        )
        world.sql(
            "INSERT INTO order_step (order_id, step, status, begun_at, ended_at, result) "
            "VALUES (:id, 'generate_confirmation', 'done', now() - interval '60 s', "
            "now() - interval '59 s', CAST(:result AS jsonb))",
            id=f"O-{n}",
            result=f'{{"generation_model": "model-{n}"}}',
        )
    found = fresh()
    assert found("steps_total", step="process_payment", result="failed", code="other") == 50
    writers = found.all("confirmations_total")
    assert sum(writers.values()) == 50
    assert len(writers) == 21


async def test_an_order_that_waits_for_its_customer_s_money_is_not_late(world: World, unique: str) -> None:
    for code in ("payment_awaited", "payment_needs_customer"):
        order = an_order(f"{code}-{unique}")
        await asyncio.to_thread(submit, [order])
        world.sql(
            "UPDATE customer_order SET submitted_at = now() - interval '1 h', waits_for = :code, "
            "not_before = now() + interval '1 min' WHERE id = :id",
            code=code,
            id=order["id"],
        )
    found = await asyncio.to_thread(fresh)
    assert found("oldest_open_order_age_seconds") == 0
    assert found("open_orders", state="postponed") == 2
    world.sql(
        "UPDATE customer_order SET waits_for = 'carrier_timeout' WHERE id = :id",
        id=f"payment_awaited-{unique}",
    )
    assert (await asyncio.to_thread(fresh))("oldest_open_order_age_seconds") >= 3600, (
        "for a system: it is late"
    )
    world.sql(
        "UPDATE customer_order SET waits_for = 'payment_awaited', not_before = now() - interval '1 h' "
        "WHERE id = :id",
        id=f"payment_awaited-{unique}",
    )
    assert (await asyncio.to_thread(fresh))("oldest_open_order_age_seconds") >= 3600, "no worker looks"


async def test_a_message_refused_long_ago_counts_no_more(world: World, unique: str) -> None:
    for number, days in enumerate((31, 29)):
        world.sql(
            "INSERT INTO outbox (order_id, kind, payload, error, attempts, created_at, refused_at) VALUES "
            "(:id, 'confirmation', '{}', '550', 1, now() - make_interval(days => :days), now())",
            id=f"OLD-{unique}-{number}",
            days=days,
        )
    assert (await asyncio.to_thread(fresh))("outbox_messages", state="refused") == 1
