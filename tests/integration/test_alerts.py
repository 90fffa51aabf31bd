"""Alerts: each is raised once and clears once, however many workers evaluate;
each service in ALERT_URLS gets both messages once."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
from prefect.events import Event
from prometheus_client.parser import text_string_to_metric_families

import tasks.alerts
from deployments.environment import environment
from saga.errors import InfrastructureError, StepError
from saga.execution import StepExecution
from saga.external_action import run_external
from saga.finish import postpone, record_failures
from shop.alerts import notices
from shop.alerts.delivery import deliver
from shop.alerts.message import event_payload
from shop.alerts.rules import ALL, REST, Rule
from shop.alerts.watch import Watched, watch
from shop.inventory.errors import InventoryUnavailable
from shop.monitoring.config import Monitoring, WorkerMonitoring
from shop.monitoring.dashboard.figures import read_figures
from shop.monitoring.exposition.endpoint import Exposition
from shop.monitoring.metrics import read_metrics
from shop.monitoring.window import last
from shop.orders.order import OrderInstance
from shop.payments.errors import PaymentDeclined, PaymentGatewayUnavailable
from shop.settings import settings
from shop.shipping.errors import CarrierTimeout
from tests.integration.domain import Shop, an_order
from tests.integration.scripted_server import answering_server, http
from tests.integration.world import html_of, text_of
from tests.mail_server import MailServer, mail_server
from tests.saga.scripted import ACT, Outside

pytest_plugins = ["tests.integration.domain_fixtures"]

CONFIG = Monitoring()
OFF = Monitoring(worker_monitoring=WorkerMonitoring(enabled=False))
NO_RATES = Monitoring(worker_monitoring=WorkerMonitoring(alert_on_high_error_rate=False))


@pytest.fixture
def server() -> Iterator[MailServer]:
    with mail_server() as server, environment({"ALERT_URLS": mailto(server)}):
        yield server


def mailto(server: MailServer) -> str:
    return (
        f"mailto://{server.host}:{server.port}?from=orders@shop.example&to=oncall@shop.example&mode=insecure"
    )


def json_to(url: str) -> str:
    return url.replace("http://", "json://")


async def evaluate(shop: Shop, config: Monitoring = CONFIG) -> Watched:
    """As if the last time were long ago."""
    await shop.rows("UPDATE alert_watch SET judged_at = NULL")
    return await asyncio.to_thread(watch, config)


async def steps(
    shop: Shop,
    step: str,
    *,
    done: int = 0,
    failed: int = 0,
    code: str = "step_broken",
    minutes_ago: float = 1,
) -> None:
    for status, count in (("done", done), ("failed", failed)):
        await shop.rows(
            "INSERT INTO order_step (order_id, step, status, begun_at, ended_at, error) "
            "SELECT gen_random_uuid()::text, :step, CAST(:status AS text), t - interval '1 s', t, "
            "CASE WHEN :status = 'failed' THEN CAST(:error AS jsonb) END "
            "FROM generate_series(1, :count), (SELECT now() - make_interval(secs => :ago) AS t) AS time",
            step=step,
            status=status,
            count=count,
            ago=minutes_ago * 60.0,
            error=f'{{"code": "{code}"}}',
        )


async def open_alerts(shop: Shop) -> dict[tuple[str, str], Any]:
    return {
        (row.rule, row.subject): row for row in await shop.rows("SELECT * FROM alert WHERE over_at IS NULL")
    }


async def under_review(shop: Shop, *order_ids: str) -> None:
    await shop.store(*map(an_order, order_ids))
    for order_id in order_ids:
        await shop.rows(
            "INSERT INTO attention (order_id, step, currency, amount_at_risk, last_error, error_code, since) "
            "VALUES (:id, 'process_payment', 'EUR', 12.5, 'no', 'refund_refused', clock_timestamp())",
            id=order_id,
        )


async def settle(shop: Shop, *order_ids: str) -> None:
    await shop.rows(
        "UPDATE attention SET resolved_at = now(), resolution = 'undone' WHERE order_id = ANY(:ids)",
        ids=list(order_ids),
    )


async def test_an_error_rate_begins_once_and_is_over_once(shop: Shop) -> None:
    await steps(shop, "process_payment", done=27, failed=3)
    await steps(shop, "validate_order", done=30)
    assert await evaluate(shop) == Watched(True, raised=1, open=1)
    ((_, subject), alert) = next(iter((await open_alerts(shop)).items()))
    assert (subject, alert.resource, alert.value, alert.threshold) == (
        "process_payment",
        "shop.step.process_payment",
        0.1,
        0.05,
    )
    assert alert.details["codes"] == {"step_broken": 3}

    await steps(shop, "process_payment", done=36)
    assert await evaluate(shop) == Watched(True, open=1), (
        "4.5 % is below the threshold, but not by enough to be over"
    )
    await steps(shop, "process_payment", done=40)
    assert await evaluate(shop) == Watched(True, cleared=1)
    assert await evaluate(shop) == Watched(True)
    assert await shop.value("SELECT count(*) FROM alert") == 1


async def test_over_all_steps_too(shop: Shop) -> None:
    await steps(shop, "validate_order", done=15, failed=2)
    await steps(shop, "process_payment", done=15, failed=2)
    assert (await evaluate(shop)).raised == 1
    assert set(await open_alerts(shop)) == {(Rule.ERROR_RATE, ALL)}
    await shop.rows("UPDATE order_step SET ended_at = ended_at - interval '1 hour'")
    assert await evaluate(shop) == Watched(True, cleared=1), "what is past the window counts no more"


async def test_few_failures_at_night_and_refusals_raise_no_alert(shop: Shop) -> None:
    await steps(shop, "process_payment", failed=19)
    assert await evaluate(shop) == Watched(True), "fewer than ALERT_MIN_COMMANDS"
    await steps(shop, "check_inventory", failed=40, code="out_of_stock")
    await shop.rows("DELETE FROM order_step WHERE step = 'process_payment'")
    assert await evaluate(shop) == Watched(True), "a business no is no fault"


async def test_however_many_evaluate_at_once(shop: Shop, server: MailServer) -> None:
    await under_review(shop, "A", "B")
    results = await asyncio.gather(*(asyncio.to_thread(watch, CONFIG) for _ in range(6)))
    assert sum(result.evaluated for result in results) == 1
    assert sum(result.raised for result in results) == 2
    assert not (await asyncio.to_thread(watch, CONFIG)).evaluated, (
        "not again within health_check_interval_seconds"
    )
    claimed = await asyncio.gather(*(notices.claim("url-1") for _ in range(6)))
    assert sorted(n.subject for each in claimed for n in each) == ["A", "B"]


async def test_turned_off(shop: Shop) -> None:
    await under_review(shop, "A")
    await steps(shop, "process_payment", failed=30)
    assert await evaluate(shop, OFF) == Watched(evaluated=False)
    assert (await evaluate(shop, NO_RATES)).raised == 1
    assert set(await open_alerts(shop)) == {(Rule.NEEDS_ATTENTION, "A")}
    assert (await evaluate(shop)).raised == 2, "of the step, and over all"
    assert (await evaluate(shop, NO_RATES)).cleared == 2
    assert "no longer evaluated" in await shop.value(
        "SELECT DISTINCT over_because FROM alert WHERE over_at IS NOT NULL"
    )


async def test_what_is_open_when_watching_is_turned_off_is_over(shop: Shop, server: MailServer) -> None:
    await under_review(shop, "A")
    await steps(shop, "process_payment", failed=30)
    assert (await evaluate(shop)).raised == 3
    assert await deliver() == (3, 0)
    assert await evaluate(shop, OFF) == Watched(True, cleared=3)
    assert await deliver() == (3, 0)
    for mail in server.taken[3:]:
        assert "cleared: " in str(mail.mail["Subject"])
        assert "It is no longer evaluated: worker_monitoring.enabled is off." in " ".join(
            text_of(mail.mail).split()
        )
    await notices.note(await notices.claim("event"))
    texts = [event_payload(notice)["text"] for notice in await notices.claim("event")]
    assert len(texts) == 3
    assert all("worker_monitoring.enabled is off" in text for text in texts)
    assert await evaluate(shop, OFF) == Watched(evaluated=False)
    assert (await evaluate(shop)).raised == 3, (
        "what is still wrong when it is turned on again is another alert"
    )


async def test_a_flood_is_not_a_mail_for_each_order(shop: Shop) -> None:
    ids = [f"O-{number:02}" for number in range(14)]
    await under_review(shop, *ids)
    assert (await evaluate(shop)).raised == 11
    alerts = await open_alerts(shop)
    assert set(alerts) == {(Rule.NEEDS_ATTENTION, each) for each in (*ids[:10], REST)}
    assert alerts[Rule.NEEDS_ATTENTION, REST].details == {"orders": 4, "for_example": ids[10:]}
    await settle(shop, *ids[:3])
    assert await evaluate(shop) == Watched(True, cleared=3, open=8), "those that move up were told of"
    await settle(shop, *ids)
    assert (await evaluate(shop)).cleared == 8


async def test_an_order_that_waits_unless_it_waits_for_something_outside(shop: Shop) -> None:
    await shop.store(*map(an_order, ("LATE", "WAITS", "NEW", "REVIEW")))
    await under_review(shop, "OTHER")
    await shop.rows(
        "INSERT INTO attention (order_id, step, currency, last_error, error_code) "
        "VALUES ('REVIEW', 'p', 'USD', 'no', 'no')"
    )
    await shop.rows("UPDATE customer_order SET submitted_at = now() - interval '16 min' WHERE id <> 'NEW'")
    await shop.rows(
        "UPDATE customer_order SET waits_for = 'payment_gateway_unavailable', "
        "waits_since = now() - interval '1 min', not_before = now() "
        "WHERE id = 'WAITS'"
    )
    await evaluate(shop)
    found = await open_alerts(shop)
    assert {key for key in found if key[0] != Rule.NEEDS_ATTENTION} == {
        (Rule.ORDER_WAITING, "LATE"),
        (Rule.EXTERNAL_UNAVAILABLE, "payment-gateway.sandbox"),
    }
    assert found[Rule.EXTERNAL_UNAVAILABLE, "payment-gateway.sandbox"].details["for_example"] == ["WAITS"]
    assert 960 <= found[Rule.ORDER_WAITING, "LATE"].value < 1020
    await shop.rows(
        "UPDATE customer_order SET outcome = 'completed', finished_at = now() WHERE id IN ('LATE', 'WAITS')"
    )
    assert (await evaluate(shop)).cleared == 2


@pytest.mark.parametrize(
    ("step_error", "subject"),
    [
        (PaymentGatewayUnavailable(30), "payment-gateway.sandbox"),
        (InventoryUnavailable("away", retry_after=30), "inventory-service"),
        (CarrierTimeout("no answer"), "carrier.embedded"),
        (InfrastructureError("act", OSError(errno.ENOSPC, "full")), "infrastructure"),
    ],
)
async def test_an_unavailable_system_is_one_alert_however_many_orders_it_fails(
    shop: Shop, step_error: StepError, subject: str
) -> None:
    """A single postponed order has a failed step until it continues; so does a compensation."""
    step_error.retry_after = 30
    names = [f"O-{number:02}" for number in range(24)]

    async def fails(_: OrderInstance) -> dict[str, Any]:
        raise step_error

    for order in await shop.instance(*map(an_order, names)):
        undone = order.id > "O-20"
        if undone:
            await run_external(StepExecution(ACT, [order]), Outside())
            order.failure = PaymentDeclined("card_declined", "no")
            await record_failures([order])
        with pytest.raises(type(step_error)):
            await run_external(StepExecution(ACT, [order], undo=undone), fails)
        await postpone([order], 30, step_error)
    assert await shop.value("SELECT count(*) FROM order_step WHERE status = 'failed'") == 21
    assert await shop.value("SELECT count(*) FROM order_step WHERE undo_status = 'failed'") == 3
    await shop.rows("UPDATE customer_order SET waits_since = now() - interval '1 min'")
    await evaluate(shop)
    assert {key: alert.value for key, alert in (await open_alerts(shop)).items()} == {
        (Rule.EXTERNAL_UNAVAILABLE, subject): 24
    }
    assert await seen_by_people(shop, step_error.code) == {
        "status": (24, 3, 0),
        "dashboard": (3, 0),
        "Prometheus": (0, 21, 0, 3),
    }

    await shop.rows(
        "UPDATE customer_order SET outcome = 'compensated', finished_at = now(), failure = CAST(:f AS jsonb)",
        f=json.dumps(step_error.details()),
    )
    await evaluate(shop)
    assert set(await open_alerts(shop)) == {(Rule.ERROR_RATE, ALL), (Rule.ERROR_RATE, "act")}, (
        "orders that are undone because of it failed"
    )
    assert await seen_by_people(shop, step_error.code) == {
        "status": (0, 27, 24),
        "dashboard": (24, 21),
        "Prometheus": (21, 0, 3, 0),
    }


async def seen_by_people(shop: Shop, code: str) -> dict[str, tuple[int, ...]]:
    """Status: postponed attempts, ends, failures, with compensations. Dashboard: ends and failures of the
    step. Prometheus: failures and postponed attempts of the step and of its compensation."""
    metrics = await asyncio.to_thread(read_metrics, last(hours=1))
    assert metrics.events is not None
    assert metrics.steps is not None
    (act,) = metrics.steps
    undos = act.compensations
    assert (act.postponed + undos.postponed, act.commands + undos.commands) == (
        metrics.events.postponed,
        metrics.events.total_events,
    )
    assert act.failures.get(code, 0) == act.failed
    now = datetime.now(UTC)
    (figures,) = (await read_figures(now - timedelta(hours=1), now + timedelta(hours=1))).steps
    # a fault counts once it is not tried again: let it be a while ago
    await shop.rows(
        "UPDATE order_step SET ended_at = ended_at - interval '20 s', "
        "undo_ended_at = undo_ended_at - interval '20 s'"
    )
    await shop.rows("DELETE FROM metric_total")
    await shop.rows("UPDATE metric_reading SET read_at = NULL, counted_from = NULL")
    text, _ = await asyncio.to_thread(Exposition("a test").answer, "")
    totals = {
        (sample.name.removeprefix("order_saga_"), sample.labels["result"]): int(sample.value)
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name in {"order_saga_steps_total", "order_saga_compensations_total"}
        and sample.labels["step"] == "act"
    }
    return {
        "status": (metrics.events.postponed, metrics.events.total_events, metrics.events.failed),
        "dashboard": (figures.ended, figures.failed),
        "Prometheus": tuple(
            totals.get((f"{what}_total", result), 0)
            for what in ("steps", "compensations")
            for result in ("failed", "postponed")
        ),
    }


async def test_one_pause_of_a_circuit_is_no_alert(shop: Shop) -> None:
    await shop.store(an_order("AWAY"))
    await shop.rows(
        "UPDATE customer_order SET waits_for = 'payment_gateway_unavailable', "
        "waits_since = now(), not_before = now()"
    )
    assert await evaluate(shop) == Watched(True)


async def test_recovery_that_does_not_keep_up(shop: Shop) -> None:
    await shop.store(*map(an_order, "ABCDE"))
    dead, alive = await shop.lease(-600), await shop.lease(60)
    await shop.rows("UPDATE customer_order SET lease_id = :dead WHERE id <> 'E'", dead=dead)
    await shop.rows("UPDATE customer_order SET lease_id = :alive WHERE id = 'E'", alive=alive)
    await evaluate(shop)
    assert set(await open_alerts(shop)) == {(Rule.RECOVERY_BEHIND, each) for each in ("A", "B", "C", REST)}
    await shop.rows("UPDATE customer_order SET lease_id = :alive", alive=alive)
    assert (await evaluate(shop)).cleared == 4


async def test_each_service_is_notified_once_of_a_raised_and_once_of_a_cleared_alert(
    shop: Shop, server: MailServer
) -> None:
    await under_review(shop, "ORDER-7")
    await evaluate(shop)
    assert await asyncio.gather(deliver(), deliver()) in ([(1, 0), (0, 0)], [(0, 0), (1, 0)])
    (raised,) = server.taken
    assert raised.recipients == ("oncall@shop.example",)
    assert str(raised.mail["Subject"]) == "[The Shop] alert: order ORDER-7 needs a person"
    for part in (text_of(raised.mail), html_of(raised.mail).replace("&nbsp;", " ")):
        for expected in (
            "process_payment",
            "refund_refused",
            "12.50 EUR at risk",
            "Since",
            "UTC",
            "Threshold",
            "resolve-order",
            "artifact",
        ):
            assert expected in part, expected

    await evaluate(shop)
    assert await deliver() == (0, 0)
    await settle(shop, "ORDER-7")
    await evaluate(shop)
    assert await deliver() == (1, 0)
    cleared = server.taken[1]
    assert str(cleared.mail["Subject"]) == "[The Shop] cleared: order ORDER-7 needs a person"
    assert "Cleared at: " in text_of(cleared.mail)

    await shop.rows("UPDATE attention SET resolved_at = NULL, resolution = NULL")
    await evaluate(shop)
    assert await deliver() == (1, 0)
    assert len({text_of(taken.mail).partition("Id: ")[2] for taken in server.taken}) == 3, (
        "the same condition later is another alert"
    )


async def test_a_service_does_not_get_what_one_before_it_left_undelivered(
    shop: Shop, server: MailServer
) -> None:
    await under_review(shop, "A")
    await evaluate(shop)
    await shop.rows("UPDATE alert_notice SET created_at = now() - interval '3 days'")
    assert await notices.is_due("url-1") is False
    assert await deliver() == (0, 0)
    await shop.rows("UPDATE alert_notice SET created_at = now() - interval '1 day'")
    assert await notices.is_due("url-1") is True
    assert await deliver() == (1, 0)


async def test_a_failed_delivery_is_recorded_with_its_reason_and_retried(
    shop: Shop, server: MailServer
) -> None:
    await under_review(shop, "A")
    await evaluate(shop)
    server.answer_data = lambda _: "451 4.7.1 later"
    assert await deliver() == (0, 1)
    error = await shop.value("SELECT error FROM alert_notice WHERE way = 'url-1'")
    assert error.startswith("entry 1 of ALERT_URLS: ")
    assert await shop.value(
        "SELECT next_attempt_at > now() + interval '20 s' FROM alert_notice WHERE way = 'url-1'"
    )
    await settle(shop, "A")
    await evaluate(shop)
    assert await deliver() == (0, 0), "that it cleared is not sent before that it was raised"
    assert await notices.is_due("url-1") is False
    server.answer_data = lambda _: None
    cut = iter([True])
    server.after_data = lambda _: next(cut, False)
    for sent in ((0, 1), (2, 0)):
        await shop.rows("UPDATE alert_notice SET next_attempt_at = now()")
        assert await deliver() == sent
    ids = [text_of(taken.mail).partition("Id: ")[2] for taken in server.taken]
    assert ids[0] == ids[1] != ids[2], "a repeated message has the same id"
    assert ["cleared" in str(taken.mail["Subject"]) for taken in server.taken] == [False, False, True]


async def test_one_service_that_fails_does_not_affect_the_other(shop: Shop, server: MailServer) -> None:
    """Nor is anything sent twice to the one that works."""
    async with answering_server(http(b"", "520 Unknown")) as hook:
        with environment({"ALERT_URLS": f"{mailto(server)} {json_to(hook.url)}/{SECRET}"}):
            await under_review(shop, "A", "B")
            await evaluate(shop)
            assert await deliver() == (2, 2)
            assert await deliver() == (0, 0)
    assert len(hook.asked) == len(server.taken) == 2
    titles = {json.loads(asked.body)["title"] for asked in hook.asked}
    assert titles == {f"[The Shop] alert: order {order} needs a person" for order in "AB"}
    errors = [error for (error,) in await shop.rows("SELECT error FROM alert_notice WHERE way = 'url-2'")]
    assert len(errors) == 2
    assert all("entry 2 of ALERT_URLS" in error and "520" in error for error in errors)


SECRET = "a-secret-path"


@pytest.mark.parametrize(
    "url",
    [f"nope://{SECRET}", f"slack://{SECRET}", f"json://user:{SECRET}@127.0.0.1:9/{SECRET}/x?+X-Key={SECRET}"],
)
async def test_no_part_of_a_url_is_shown_when_it_fails(
    shop: Shop, url: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    with environment({"ALERT_URLS": url}):
        await under_review(shop, "A")
        await evaluate(shop)
        assert await deliver() == (0, 1)
        assert SECRET not in repr(settings())
    error = await shop.value("SELECT error FROM alert_notice WHERE way = 'url-1'")
    assert "ALERT_URLS" in error
    # pytest listens to silent loggers, too
    others = [record.getMessage() for record in caplog.records if record.name != "apprise"]
    for shown in (error, *others, *capfd.readouterr()):
        assert SECRET not in shown


async def test_a_service_that_answers_byte_by_byte_does_not_block(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes within apprise's own time limit.
    The event loop continues meanwhile, and no process is left behind."""
    monkeypatch.setattr("shop.alerts.delivery.SEND_SECONDS", 2.0)
    ended = asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read(1)
            while not ended.is_set():
                writer.write(b"H")
                await writer.drain()
                await asyncio.sleep(0.2)
        writer.close()

    slow = await asyncio.start_server(drip, "127.0.0.1", 0)
    with environment({"ALERT_URLS": f"json://127.0.0.1:{slow.sockets[0].getsockname()[1]}/"}):
        await under_review(shop, "A", "B", "C")
        await evaluate(shop)
        delivery = asyncio.create_task(deliver())
        turns = 0
        while not delivery.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert delivery.result() == (0, 3)
    assert not [child for child in psutil.Process().children() if "sender.py" in " ".join(child.cmdline())]
    ended.set()
    slow.close()
    assert turns > 20
    errors = await shop.rows("SELECT DISTINCT error FROM alert_notice WHERE way = 'url-1'")
    assert errors == [("entry 1 of ALERT_URLS: no answer in time",)]


async def test_an_alert_that_this_version_cannot_describe_does_not_delay_the_others(
    shop: Shop, server: MailServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    emitted = list[str]()

    class Server:
        async def __aenter__(self) -> Server:
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def emit(self, event: Event) -> None:
            emitted.append(event.resource.id)

    async def nothing(_: object) -> list[Any]:
        return []

    monkeypatch.setattr(tasks.alerts, "get_client", Server)
    monkeypatch.setattr(tasks.alerts, "get_events_client", lambda **_: Server())
    monkeypatch.setattr(tasks.alerts, "related_resources_from_run_context", nothing)
    await under_review(shop, "A", "B", "C")
    await evaluate(shop)
    await shop.rows("UPDATE alert SET rule = 'of_a_newer_version' WHERE subject = 'A'")
    await shop.rows(
        "UPDATE alert SET details = '{\"orders\": 1}', subject = 'and more', rule = 'error_rate' "
        "WHERE subject = 'B'"
    )
    assert await tasks.alerts.emit_alert_events.fn() == 1
    assert await deliver() == (1, 2)
    assert emitted == ["shop.order.C"]
    assert len(server.taken) == 1
    errors = {
        "event": ["KeyError", "ValueError"],
        "url-1": [f"entry 1 of ALERT_URLS: {each}" for each in ("KeyError", "ValueError")],
    }
    unsent = await shop.rows("SELECT way, error FROM alert_notice WHERE sent_at IS NULL ORDER BY way, error")
    assert unsent == [(way, error) for way in ("event", "url-1") for error in errors[way]]
    assert "cannot be described" in caplog.text


async def test_without_services_an_alert_is_an_event_only(shop: Shop) -> None:
    await under_review(shop, "A")
    await evaluate(shop)
    assert await shop.rows("SELECT way FROM alert_notice") == [("event",)]
    assert await deliver() == (0, 0)


async def test_a_hostile_order_id_is_text_in_a_mail(shop: Shop, server: MailServer) -> None:
    await under_review(shop, "A=?utf-8?b?<script>")
    await evaluate(shop)
    assert await deliver() == (1, 0)
    assert "<script>" not in html_of(server.taken[0].mail)
    assert "A=?utf-8?b?<script>" in text_of(server.taken[0].mail)


@pytest.mark.parametrize("broken", ["watch", "emit_alert_events"])
async def test_alerts_are_sent_even_if_events_or_the_evaluation_fail(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    sent: list[str] = []

    async def due(*_: str | float) -> bool:
        return True

    def fails(*_: object) -> int:
        raise ConnectionError("not today")

    async def send() -> dict[str, int]:
        sent.append("alerts")
        return {}

    monkeypatch.setattr(tasks.alerts, "watch", lambda: Watched(evaluated=False))
    monkeypatch.setattr(notices, "is_due", due)
    monkeypatch.setattr(tasks.alerts, "delivery_is_due", due)
    monkeypatch.setattr(tasks.alerts, broken, fails)
    monkeypatch.setattr(tasks.alerts, "send_alerts", send)
    with pytest.raises(ConnectionError):
        await tasks.alerts.evaluate_alerts.fn()
    assert sent == ["alerts"]
