"""Alerts: each begins once and is over once, however many judge at once; and people hear of both, once, over SMTP."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from prefect.events import Event
from prometheus_client.parser import text_string_to_metric_families

import flows.watch_orders
import tasks.tell_alerts
from deployments.stack.environment import environment
from shop.alerts import notices, sending
from shop.alerts.mail import posted
from shop.alerts.rules import ALL, REST, Rule
from shop.alerts.sending import tell_people
from shop.alerts.watch import Watched, watch
from shop.ending import put_off, remember_failures
from shop.errors import (
    CarrierTimeout,
    InfrastructureTrouble,
    InventoryUnavailable,
    OrderError,
    PaymentDeclined,
    PaymentGatewayUnavailable,
)
from shop.monitoring.config import Monitoring, WorkerMonitoring
from shop.monitoring.exposition.endpoint import Exposition
from shop.monitoring.metrics import read_metrics
from shop.monitoring.window import last
from shop.pictures.figures import read_figures
from shop.settings import settings
from shop.under_way import OrderUnderWay
from shop.work import Work, run_outside
from tests.integration.domain import Shop, an_order
from tests.integration.saying import http, server_that_says
from tests.integration.scripted import ACT, Outside, some
from tests.integration.world import html_of, text_of
from tests.mail_server import MailServer, Taken, mail_server

pytest_plugins = ["tests.integration.domain_fixtures"]

CONFIG = Monitoring()
OFF = Monitoring(worker_monitoring=WorkerMonitoring(enabled=False))
NO_RATES = Monitoring(worker_monitoring=WorkerMonitoring(alert_on_high_error_rate=False))


@pytest.fixture
def server() -> Iterator[MailServer]:
    with mail_server() as server:
        url = f"smtp://{server.host}:{server.port}"
        with environment({"SMTP_URL": url, "ALERT_EMAIL": "oncall@shop.example", "SHOP_EMAIL": "orders@shop.example"}):
            yield server


async def judge(shop: Shop, config: Monitoring = CONFIG) -> Watched:
    """As if the last time were long ago."""
    await shop.rows("UPDATE alert_watch SET judged_at = NULL")
    return await asyncio.to_thread(watch, config)


async def steps(shop: Shop, step: str, *, done: int = 0, failed: int = 0, code: str = "step_broken", minutes_ago: float = 1) -> None:
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
    return {(row.rule, row.subject): row for row in await shop.rows("SELECT * FROM alert WHERE over_at IS NULL")}


async def on_the_desk(shop: Shop, *order_ids: str) -> None:
    await shop.store(*map(an_order, order_ids))
    for order_id in order_ids:
        await shop.rows(
            "INSERT INTO attention (order_id, step, currency, amount_at_risk, last_error, error_code, since) "
            "VALUES (:id, 'process_payment', 'EUR', 12.5, 'no', 'refund_refused', clock_timestamp())",
            id=order_id,
        )


async def settle(shop: Shop, *order_ids: str) -> None:
    await shop.rows("UPDATE attention SET resolved_at = now(), resolution = 'undone' WHERE order_id = ANY(:ids)", ids=list(order_ids))


async def test_an_error_rate_begins_once_and_is_over_once(shop: Shop) -> None:
    await steps(shop, "process_payment", done=27, failed=3)
    await steps(shop, "validate_order", done=30)
    assert await judge(shop) == Watched(True, raised=1, open=1)
    ((_, subject), alert) = next(iter((await open_alerts(shop)).items()))
    assert (subject, alert.resource, alert.value, alert.threshold) == ("process_payment", "shop.step.process_payment", 0.1, 0.05)
    assert alert.details["codes"] == {"step_broken": 3}

    await steps(shop, "process_payment", done=36)
    assert await judge(shop) == Watched(True, open=1), "4.5 % is below the threshold, but not by enough to be over"
    await steps(shop, "process_payment", done=40)
    assert await judge(shop) == Watched(True, cleared=1)
    assert await judge(shop) == Watched(True)
    assert await shop.value("SELECT count(*) FROM alert") == 1


async def test_over_all_steps_too(shop: Shop) -> None:
    await steps(shop, "validate_order", done=15, failed=2)
    await steps(shop, "process_payment", done=15, failed=2)
    assert (await judge(shop)).raised == 1
    assert set(await open_alerts(shop)) == {(Rule.ERROR_RATE, ALL)}
    await shop.rows("UPDATE order_step SET ended_at = ended_at - interval '1 hour'")
    assert await judge(shop) == Watched(True, cleared=1), "what is past the window counts no more"


async def test_few_failures_at_night_and_refusals_alert_nobody(shop: Shop) -> None:
    await steps(shop, "process_payment", failed=19)
    assert await judge(shop) == Watched(True), "fewer than ALERT_MIN_COMMANDS"
    await steps(shop, "check_inventory", failed=40, code="out_of_stock")
    await shop.rows("DELETE FROM order_step WHERE step = 'process_payment'")
    assert await judge(shop) == Watched(True), "a business no is no fault"


async def test_however_many_judge_at_once(shop: Shop) -> None:
    await on_the_desk(shop, "A", "B")
    results = await asyncio.gather(*(asyncio.to_thread(watch, CONFIG) for _ in range(6)))
    assert sum(result.judged for result in results) == 1
    assert sum(result.raised for result in results) == 2
    assert not (await asyncio.to_thread(watch, CONFIG)).judged, "not again within health_check_interval_seconds"
    claimed = await asyncio.gather(*(notices.claim("mail") for _ in range(6)))
    assert sorted(n.subject for each in claimed for n in each) == ["A", "B"]


async def test_turned_off(shop: Shop) -> None:
    await on_the_desk(shop, "A")
    await steps(shop, "process_payment", failed=30)
    assert await judge(shop, OFF) == Watched(judged=False)
    assert (await judge(shop, NO_RATES)).raised == 1
    assert set(await open_alerts(shop)) == {(Rule.NEEDS_ATTENTION, "A")}
    assert (await judge(shop)).raised == 2, "of the step, and over all"
    assert (await judge(shop, NO_RATES)).cleared == 2
    assert "not watched any more" in await shop.value("SELECT DISTINCT over_because FROM alert WHERE over_at IS NOT NULL")


async def test_what_is_open_when_watching_is_turned_off_is_over(shop: Shop, server: MailServer) -> None:
    await on_the_desk(shop, "A")
    await steps(shop, "process_payment", failed=30)
    assert (await judge(shop)).raised == 3
    assert await tell_people() == (3, 0)
    assert await judge(shop, OFF) == Watched(True, cleared=3)
    assert await tell_people() == (3, 0)
    for mail in server.taken[3:]:
        assert "over: " in str(mail.mail["Subject"])
        for part in (text_of(mail.mail), html_of(mail.mail)):
            assert "Over, because it is not watched any more: worker_monitoring.enabled is off." in " ".join(part.split())
    await notices.note(await notices.claim("event"))
    told = [posted(notice)["text"] for notice in await notices.claim("event")]
    assert len(told) == 3
    assert all("worker_monitoring.enabled is off" in text for text in told)
    assert await judge(shop, OFF) == Watched(judged=False)
    assert (await judge(shop)).raised == 3, "what is still wrong when it is turned on again is another alert"


async def test_a_flood_is_not_a_mail_for_each_order(shop: Shop) -> None:
    ids = [f"O-{number:02}" for number in range(14)]
    await on_the_desk(shop, *ids)
    assert (await judge(shop)).raised == 11
    alerts = await open_alerts(shop)
    assert set(alerts) == {(Rule.NEEDS_ATTENTION, each) for each in (*ids[:10], REST)}
    assert alerts[Rule.NEEDS_ATTENTION, REST].details == {"orders": 4, "for_example": ids[10:]}
    await settle(shop, *ids[:3])
    assert await judge(shop) == Watched(True, cleared=3, open=8), "those that move up were told of"
    await settle(shop, *ids)
    assert (await judge(shop)).cleared == 8


async def test_an_order_that_waits_unless_it_waits_for_something_outside(shop: Shop) -> None:
    await shop.store(*map(an_order, ("LATE", "AWAY", "NEW", "DESK")))
    await on_the_desk(shop, "OTHER")
    await shop.rows("INSERT INTO attention (order_id, step, currency, last_error, error_code) VALUES ('DESK', 'p', 'USD', 'no', 'no')")
    await shop.rows("UPDATE customer_order SET submitted_at = now() - interval '16 min' WHERE id <> 'NEW'")
    await shop.rows(
        "UPDATE customer_order SET waits_for = 'payment_gateway_unavailable', waits_since = now() - interval '1 min', not_before = now() "
        "WHERE id = 'AWAY'"
    )
    await judge(shop)
    found = await open_alerts(shop)
    assert {key for key in found if key[0] != Rule.NEEDS_ATTENTION} == {
        (Rule.ORDER_WAITING, "LATE"),
        (Rule.OUTSIDE_AWAY, "payment-gateway.sandbox"),
    }
    assert found[Rule.OUTSIDE_AWAY, "payment-gateway.sandbox"].details["for_example"] == ["AWAY"]
    assert 960 <= found[Rule.ORDER_WAITING, "LATE"].value < 1020
    await shop.rows("UPDATE customer_order SET outcome = 'completed', finished_at = now() WHERE id IN ('LATE', 'AWAY')")
    assert (await judge(shop)).cleared == 2


@pytest.mark.parametrize(
    ("away", "subject"),
    [
        (PaymentGatewayUnavailable(30), "payment-gateway.sandbox"),
        (InventoryUnavailable("away", retry_after=30), "inventory-service"),
        (CarrierTimeout("no answer"), "carrier.embedded"),
        (InfrastructureTrouble("act", OSError(errno.ENOSPC, "full")), "infrastructure"),
    ],
)
async def test_what_is_away_is_one_alert_however_many_orders_it_fails(shop: Shop, away: OrderError, subject: str) -> None:
    """An order by itself that is put off leaves a failed step behind, until it goes on; so does an undo."""
    away.retry_after = 30
    names = [f"O-{number:02}" for number in range(24)]

    async def fails(_: OrderUnderWay) -> dict[str, Any]:
        raise away

    for order in await some(shop, *names):
        undone = order.id > "O-20"
        if undone:
            await run_outside(Work(ACT, [order]), Outside())
            order.failure = PaymentDeclined("card_declined", "no")
            await remember_failures([order])
        with pytest.raises(type(away)):
            await run_outside(Work(ACT, [order], undo=undone), fails)
        await put_off([order], 30, why=away.code)
    assert await shop.value("SELECT count(*) FROM order_step WHERE status = 'failed'") == 21
    assert await shop.value("SELECT count(*) FROM order_step WHERE undo_status = 'failed'") == 3
    await shop.rows("UPDATE customer_order SET waits_since = now() - interval '1 min'")
    await judge(shop)
    assert {key: alert.value for key, alert in (await open_alerts(shop)).items()} == {(Rule.OUTSIDE_AWAY, subject): 24}
    assert await seen_by_people(shop, away.code) == {"status": (24, 3, 0), "dashboard": (3, 0), "Prometheus": (0, 21, 0, 3)}

    await shop.rows(
        "UPDATE customer_order SET outcome = 'compensated', finished_at = now(), failure = CAST(:f AS jsonb)", f=json.dumps(away.details())
    )
    await judge(shop)
    assert set(await open_alerts(shop)) == {(Rule.ERROR_RATE, ALL), (Rule.ERROR_RATE, "act")}, "orders that are undone because of it failed"
    assert await seen_by_people(shop, away.code) == {"status": (0, 27, 24), "dashboard": (24, 21), "Prometheus": (21, 0, 3, 0)}


async def seen_by_people(shop: Shop, code: str) -> dict[str, tuple[int, ...]]:
    """Status: tries put off, ends, failures; undos are among them. Dashboard: ends and failures of the step. Prometheus: the step's
    failures, its tries that were put off, and the same of its undos."""
    metrics = await asyncio.to_thread(read_metrics, last(hours=1))
    assert metrics.events is not None
    assert metrics.steps is not None
    (act,) = metrics.steps
    undos = act.compensations
    assert (act.put_off + undos.put_off, act.commands + undos.commands) == (metrics.events.put_off, metrics.events.total_events)
    assert act.failures.get(code, 0) == act.failed
    now = datetime.now(UTC)
    (figures,) = (await read_figures(now - timedelta(hours=1), now + timedelta(hours=1))).steps
    # a fault counts once it is not tried again: let it be a while ago
    await shop.rows("UPDATE order_step SET ended_at = ended_at - interval '20 s', undo_ended_at = undo_ended_at - interval '20 s'")
    await shop.rows("DELETE FROM metric_total")
    await shop.rows("UPDATE metric_reading SET read_at = NULL, counted_from = NULL")
    text, _ = await asyncio.to_thread(Exposition("a test").answer, "")
    told = {
        (sample.name.removeprefix("order_saga_"), sample.labels["result"]): int(sample.value)
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name in {"order_saga_steps_total", "order_saga_compensations_total"} and sample.labels["step"] == "act"
    }
    return {
        "status": (metrics.events.put_off, metrics.events.total_events, metrics.events.failed),
        "dashboard": (figures.ended, figures.failed),
        "Prometheus": tuple(
            told.get((f"{what}_total", result), 0) for what in ("steps", "compensations") for result in ("failed", "put_off")
        ),
    }


async def test_one_pause_of_a_circuit_is_no_alert(shop: Shop) -> None:
    await shop.store(an_order("AWAY"))
    await shop.rows("UPDATE customer_order SET waits_for = 'payment_gateway_unavailable', waits_since = now(), not_before = now()")
    assert await judge(shop) == Watched(True)


async def test_recovery_that_does_not_keep_up(shop: Shop) -> None:
    await shop.store(*map(an_order, "ABCDE"))
    dead, alive = await shop.lease(-600), await shop.lease(60)
    await shop.rows("UPDATE customer_order SET lease_id = :dead WHERE id <> 'E'", dead=dead)
    await shop.rows("UPDATE customer_order SET lease_id = :alive WHERE id = 'E'", alive=alive)
    await judge(shop)
    assert set(await open_alerts(shop)) == {(Rule.RECOVERY_BEHIND, each) for each in ("A", "B", "C", REST)}
    await shop.rows("UPDATE customer_order SET lease_id = :alive", alive=alive)
    assert (await judge(shop)).cleared == 4


def one(taken: list[Taken]) -> Taken:
    (only,) = taken
    return only


async def test_people_hear_once_that_it_began_and_once_that_it_is_over(shop: Shop, server: MailServer) -> None:
    await on_the_desk(shop, "ORDER-7")
    await judge(shop)
    assert await asyncio.gather(tell_people(), tell_people()) in ([(1, 0), (0, 0)], [(0, 0), (1, 0)])
    raised = one(server.taken)
    assert raised.recipients == ("oncall@shop.example",)
    assert "order ORDER-7 needs a person" in str(raised.mail["Subject"])
    for part in (text_of(raised.mail), html_of(raised.mail)):
        for said in ("process_payment", "refund_refused", "12.50 EUR at risk", "Since", "UTC", "Threshold", "resolve-order", "artifact"):
            assert said in part, said

    await judge(shop)
    assert await tell_people() == (0, 0)
    await settle(shop, "ORDER-7")
    await judge(shop)
    assert await tell_people() == (1, 0)
    cleared = server.taken[1]
    assert "over: order ORDER-7 needs a person" in str(cleared.mail["Subject"])
    assert "Over at: " in text_of(cleared.mail)
    assert cleared.mail["In-Reply-To"] == raised.id
    assert cleared.id != raised.id

    await shop.rows("UPDATE attention SET resolved_at = NULL, resolution = NULL")
    await judge(shop)
    assert await tell_people() == (1, 0)
    assert len(set(server.ids)) == 3, "the same thing later is another alert"


async def test_a_server_that_is_away_and_one_that_cuts_the_line(shop: Shop, server: MailServer) -> None:
    await on_the_desk(shop, "A")
    await judge(shop)
    server.answer_data = lambda _: "451 4.7.1 later"
    assert await tell_people() == (0, 1)
    await settle(shop, "A")
    await judge(shop)
    assert await tell_people() == (0, 0), "that it is over is not told before that it began"
    assert await notices.is_due("mail") is False
    server.answer_data = lambda _: None
    cut = iter([True])
    server.after_data = lambda _: next(cut, False)
    for sent in ((0, 1), (2, 0)):
        await shop.rows("UPDATE alert_notice SET next_attempt_at = now()")
        assert await tell_people() == sent
    assert server.ids[0] == server.ids[1], "the same Message-ID"
    assert len(set(server.ids)) == 2
    assert ["over" in str(taken.mail["Subject"]) for taken in server.taken] == [False, False, True]


async def test_a_webhook_beside_the_mail(shop: Shop, server: MailServer) -> None:
    bodies, answers = list[tuple[str, dict[str, Any]]](), iter([500, 204])

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append((self.headers["webhook-id"], json.loads(self.rfile.read(int(self.headers["content-length"])))))
            self.send_response(next(answers))
            self.end_headers()

    hook = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=hook.serve_forever)
    thread.start()
    try:
        with environment({"ALERT_WEBHOOK_URL": f"http://127.0.0.1:{hook.server_port}/"}):
            await on_the_desk(shop, "A")
            await judge(shop)
            assert await tell_people() == (1, 1), "the mail was sent all the same"
            await shop.rows("UPDATE alert_notice SET next_attempt_at = now()")
            assert await tell_people() == (1, 0)
    finally:
        hook.shutdown()
        thread.join(20)
        hook.server_close()
    assert len(server.taken) == 1
    assert bodies[0] == bodies[1]
    _, body = bodies[0]
    assert (body["type"], body["resource"]) == ("order.alert.raised", "shop.order.A")
    assert "needs a person" in body["text"]
    assert await shop.value("SELECT string_agg(way, ',') FROM alert_notice WHERE sent_at IS NULL") == "event"


async def test_a_webhook_s_odd_status_holds_up_no_other_alert(shop: Shop, server: MailServer) -> None:
    """Nor is any mail sent twice."""
    async with server_that_says(http(b"", "520 Unknown")) as hook:
        with environment({"ALERT_WEBHOOK_URL": f"{hook.url}/"}):
            await on_the_desk(shop, "A", "B")
            await judge(shop)
            assert await tell_people() == (2, 2)
            assert await tell_people() == (0, 0)
    assert len(hook.asked) == len(server.taken) == 2
    errors = await shop.rows("SELECT error FROM alert_notice WHERE way = 'webhook' ORDER BY error")
    assert [error for (error,) in errors] == ["the webhook (ALERT_WEBHOOK_URL) answered 520"] * 2


async def test_what_this_version_has_no_words_for_holds_up_nobody(
    shop: Shop, server: MailServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    emitted, bodies = list[str](), list[str]()

    class Server:
        async def __aenter__(self) -> Server:
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def emit(self, event: Event) -> None:
            emitted.append(event.resource.id)

    async def nothing(_: object) -> list[Any]:
        return []

    async def hook(_: object, __: str, body: dict[str, Any]) -> None:
        bodies.append(body["resource"])

    monkeypatch.setattr(tasks.tell_alerts, "get_client", Server)
    monkeypatch.setattr(tasks.tell_alerts, "get_events_client", lambda **_: Server())
    monkeypatch.setattr(tasks.tell_alerts, "related_resources_from_run_context", nothing)
    monkeypatch.setattr(sending, "_posted", hook)
    with environment({"ALERT_WEBHOOK_URL": "http://127.0.0.1:9/"}):
        await on_the_desk(shop, "A", "B", "C")
        await judge(shop)
        await shop.rows("UPDATE alert SET rule = 'of_a_newer_version' WHERE subject = 'A'")
        await shop.rows("UPDATE alert SET details = '{\"orders\": 1}', subject = 'and more', rule = 'error_rate' WHERE subject = 'B'")
        assert await tasks.tell_alerts.emit_alert_events.fn() == 1
        assert await tell_people() == (2, 4)
    assert emitted == bodies == ["shop.order.C"]
    assert len(server.taken) == 1
    unsent = await shop.rows("SELECT way, error FROM alert_notice WHERE sent_at IS NULL ORDER BY way, error")
    assert unsent == [(way, error) for way in ("event", "mail", "webhook") for error in ("KeyError", "ValueError")]
    assert "could be made of alert" in caplog.text


async def test_without_a_mail_server_it_is_in_the_maildir(shop: Shop) -> None:
    await on_the_desk(shop, "A=?utf-8?b?<script>")
    await judge(shop)
    assert await tell_people() == (1, 0)
    (file,) = (settings().mail_dir / "new").iterdir()
    assert b"<script>" not in file.read_bytes().partition(b"text/html")[2]


@pytest.mark.parametrize("broken", ["watch", "emit_alert_events"])
async def test_people_are_told_also_if_the_prefect_server_hears_nothing_or_nobody_can_judge(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    told: list[str] = []

    async def due(*_: str, waited: float = 0) -> bool:
        return True

    def fails(*_: object) -> int:
        raise ConnectionError("not today")

    async def tells() -> dict[str, int]:
        told.append("people")
        return {}

    monkeypatch.setattr(flows.watch_orders, "watch", lambda: Watched(judged=False))
    monkeypatch.setattr(notices, "is_due", due)
    monkeypatch.setattr(flows.watch_orders, broken, fails)
    monkeypatch.setattr(flows.watch_orders, "tell_people_of_alerts", tells)
    with pytest.raises(ConnectionError):
        await flows.watch_orders.watch_orders.fn()
    assert told == ["people"]
