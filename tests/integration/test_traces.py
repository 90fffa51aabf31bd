"""Traces over the wire, to a collector that reads them as the specification says:
one for each order, whoever worked on it."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from flows.order_saga import ORDER_SAGA
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.monitoring.traces import Sender, sending
from shop.orders.intake import submit
from shop.settings import settings
from tests.conftest import HOME
from tests.integration.world import World, an_order
from tests.otlp_server import Collector, collector
from tests.waiting import until
from tests.worker_forkserver.forkserver import Forkserver

STEPS = [step.name for step in ORDER_SAGA]
ERROR = 2
PERSONAL = ("@example", "John", "Main St", "0259")


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collector() as server:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
        settings.cache_clear()
        yield server
    monkeypatch.undo()
    settings.cache_clear()


async def wait_for_spans(collected: Collector, *order_ids: str) -> None:
    async def there() -> bool:
        return all(collected.of(order_id) for order_id in order_ids)

    await until(there, 30, "the traces to arrive")


async def test_an_order_that_is_recovered_in_another_process_is_one_trace(
    saga: World, collected: Collector, running_forkserver: Forkserver, unique: str
) -> None:
    order_id = f"TRACED-{unique}"
    env = {"LEASE_SECONDS": "1", "PAYMENT_TIMEOUT_SECONDS": "25"}
    killed = running_forkserver.order(
        an_order(order_id), stop_at="shop.payments.sandbox.client:SandboxGateway.confirm:after", env=env
    )
    try:
        await asyncio.to_thread(killed.wait_until, killed.stopped, 60, "the charge")
        killed.signal(signal.SIGKILL)
        await asyncio.to_thread(killed.gone, 20)

        async def recovered() -> bool:
            await process_pending_orders(consumer_seconds=0)
            return saga.order(order_id).outcome is not None

        await until(recovered, 60, "another process to recover it")
    finally:
        running_forkserver.end_all()
    assert saga.order(order_id).takeovers == 1
    assert saga.charges(order_id) == 1
    with sending():
        await wait_for_spans(collected, order_id)
    spans = collected.of(order_id)
    assert len({span.trace for span in spans}) == 1
    assert [span.name for span in spans] == ["order", *STEPS]
    root, *steps = spans
    assert root.parent == ""
    assert {span.parent for span in steps} == {root.id}
    assert len({span.id for span in spans}) == len(spans)
    assert {span.service for span in spans} == {"order-saga"}
    assert root.attributes["order_saga.outcome"] == "completed"
    assert root.attributes["order_saga.takeovers"] == 1
    journal = saga.journal(order_id)
    for span in steps:
        row = journal[span.name]
        assert span.begun == pytest.approx(row.begun_at.timestamp() * 1e9, abs=1e3)
        assert span.ended == pytest.approx(row.ended_at.timestamp() * 1e9, abs=1e3)
        assert span.attributes["order_saga.attempts"] == row.attempts
    assert journal["process_payment"].attempts == 2  # the first died with its process


async def test_compensations_refusals_and_failures_are_seen(
    saga: World, collected: Collector, unique: str
) -> None:
    declined, unshippable, refused = f"DECLINED-{unique}", f"UNSHIPPABLE-{unique}", f"REFUSED-{unique}"
    orders = [
        an_order(declined, card="0000"),
        an_order(unshippable, country="AQ"),
        an_order(refused, country="AQ", card="0259"),
    ]
    await asyncio.to_thread(submit, orders)
    await process_pending_orders(consumer_seconds=0)
    with sending():
        await wait_for_spans(collected, declined, unshippable, refused)
    assert len({span.trace for span in collected.spans}) == 3
    of = {
        order_id: {span.name: span for span in collected.of(order_id)}
        for order_id in (declined, unshippable, refused)
    }
    payment = of[declined]["process_payment"]
    assert (payment.attributes["order_saga.result"], payment.attributes["error.type"], payment.status) == (
        "refused",
        "payment_declined",
        0,
    )
    assert of[declined]["undo check_inventory"].attributes["order_saga.compensation"] is True
    assert of[unshippable]["undo process_payment"].begun >= of[unshippable]["fulfill_order"].begun
    assert saga.money(unshippable) == (
        saga.order(unshippable).amount_charged,
        saga.order(unshippable).amount_charged,
    )
    assert of[refused]["undo process_payment"].status == ERROR
    assert of[refused]["undo process_payment"].attributes["error.type"] == "refund_refused"
    assert of[refused]["order"].status == ERROR
    for body in collected.bodies:
        for secret in PERSONAL:
            assert secret.encode() not in body


async def test_no_trace_is_lost_or_sent_twice_while_the_collector_is_unavailable(
    saga: World, collected: Collector, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[Sender.__module__], "_RETRY_SECONDS", 0.2)
    collected.answer = 404  # a refusal, which the exporter does not try again by itself
    orders = [f"LATE-{unique}-{n}" for n in range(3)]
    await asyncio.to_thread(submit, [an_order(order_id) for order_id in orders])
    await process_pending_orders(consumer_seconds=0)
    with sending():

        async def tried() -> bool:
            return collected.requests > 1

        await until(tried, 30, "the collector to be asked twice")
        assert collected.spans == []
        collected.answer = 200
        await wait_for_spans(collected, *orders)
    first = {(span.trace, span.id) for span in collected.spans}
    assert len(first) == len(collected.spans) == 3 * (1 + len(STEPS))
    more = an_order(f"MORE-{unique}")
    await process_order(more)
    with sending():  # a process that starts anew may send what was sent last, and it is the same
        await wait_for_spans(collected, more["id"])
    fresh = {(span.trace, span.id) for span in collected.of(more["id"])}
    assert {(span.trace, span.id) for span in collected.spans} == first | fresh


async def test_one_of_many_processes_sends(saga: World, collected: Collector, unique: str) -> None:
    orders = [f"ONCE-{unique}-{n}" for n in range(4)]
    await asyncio.to_thread(submit, [an_order(order_id) for order_id in orders])
    await process_pending_orders(consumer_seconds=0)
    senders = [Sender(settings(), every_seconds=0.1) for _ in range(3)]
    for sender in senders:
        sender.start()
    try:
        await wait_for_spans(collected, *orders)
    finally:
        for sender in senders:
            stopping = threading.Thread(target=sender.stop)
            stopping.start()
            stopping.join(20)
            assert not stopping.is_alive()
    assert len(collected.spans) == len(orders) * (1 + len(STEPS))


def test_it_is_off_and_not_loaded_unless_it_is_wanted(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import sys, flows.process_pending_orders, deployments.worker as worker\n"
        "with worker.working(): pass\n"
        "unwanted = ('opentelemetry.sdk', 'opentelemetry.exporter')\n"
        "sys.exit(','.join(name for name in sys.modules if name.startswith(unwanted)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr.splitlines()[-1:]) == (0, []), done.stderr


@pytest.mark.parametrize(
    ("given", "endpoint"),
    [
        ({}, None),
        ({"OTEL_TRACES": "1"}, "http://127.0.0.1:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://otel.example/"}, "https://otel.example/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://otel.example", "OTEL_TRACES": "0"}, None),
    ],
)
def test_when_it_is_on(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], endpoint: str | None) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings.cache_clear()
    assert settings().traces.endpoint == endpoint
    monkeypatch.undo()
    settings.cache_clear()
