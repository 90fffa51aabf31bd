"""Money that came by transfer or on delivery, recorded through every interface: once, and the order
continues. Checked against the table of payments, the stock and the shipments."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from deployments.cli import order_saga
from deployments.environment import environment
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from flows.record_payment import record_payment
from saga.database import sync_engine
from shop.alerts.rules import Rule, evaluate
from shop.monitoring.config import Monitoring
from shop.orders import intake
from shop.orders.outcomes import Outcome
from shop.payments.errors import NotReceivable
from shop.payments.recording import read_incoming
from shop.review import attention
from shop.review.attention import advice
from shop.settings import settings
from tests.integration.test_web_orders import NO_SERVER, problem
from tests.integration.web import KEY, served
from tests.integration.world import World, an_order

PRICE = Decimal("999.99")
TRANSFER = {"method": "bank_transfer"}


@pytest.fixture(autouse=True)
def wakeups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    for name in ("deployments.cli.record", "flows.record_payment"):
        monkeypatch.setattr(f"{name}.wake_pending_lane", lambda name=name: calls.append(name))
    return calls


@pytest.fixture
def web(saga: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setenv("ORDERS_API_KEY", KEY)
    with environment({"PREFECT_API_URL": NO_SERVER}), served() as client:
        yield client


async def waiting(*order_ids: str) -> None:
    """Submits orders that wait for a transfer afterwards."""
    intake.submit([an_order(order_id, payment_info=TRANSFER) for order_id in order_ids])
    await process_pending_orders(consumer_seconds=0)


def received(saga: World) -> set[tuple[Any, ...]]:
    return set(saga.sql("SELECT order_id, reference, amount, recorded_by FROM received_payment"))


async def run(*arguments: str) -> int:
    return await asyncio.to_thread(order_saga, ["paid", *arguments])


async def test_the_command_records_and_the_order_resumes(
    saga: World, unique: str, wakeups: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    await waiting(unique)
    assert saga.order(unique).outcome is None
    assert await run(unique, "999.98", "--reference", "T-1", "--by", "ann") == 0
    await process_pending_orders(consumer_seconds=0)
    assert saga.order(unique).outcome is None, "one cent is missing"
    assert saga.shipments(unique) == 0
    capsys.readouterr()
    assert await run(unique, "0.01", "--reference", "T-2", "--by", "ann", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["total_received"], printed["new"]) == ("999.99", True)
    assert await run(unique, "0.01", "--reference", "T-2", "--by", "bob") == 0
    assert len(wakeups) == 2, "nothing new, nobody to wake"
    await process_pending_orders(consumer_seconds=0)
    assert saga.order(unique).outcome == Outcome.COMPLETED
    assert saga.shipments(unique) == 1
    assert received(saga) == {
        (unique, "T-1", Decimal("999.98"), "ann"),
        (unique, "T-2", Decimal("0.01"), "ann"),
    }


async def test_what_the_command_refuses(saga: World, unique: str, capsys: pytest.CaptureFixture[str]) -> None:
    await waiting(unique)
    await process_order(an_order(f"CARD-{unique}"), return_state=True)
    good = ("--reference", "T-1", "--by", "ann")
    for wrong in (
        (),
        (unique,),
        (unique, "1", "--by", "ann"),
        (unique, "1", "--reference", "T-1"),
        (unique, "0", *good),
        (unique, "much", *good),
        (unique, "1.001", *good),
        (unique, "1", "--file", "x"),
        ("--file", "no such file"),
    ):
        assert await run(*wrong) == 2, wrong
    assert await run("nobody", "1", *good) == 1
    assert await run(f"CARD-{unique}", "1", *good) == 1
    assert received(saga) == set()
    assert await run(unique, "1", *good) == 0
    assert await run(unique, "2", *good) == 1
    assert received(saga) == {(unique, "T-1", 1, "ann")}
    assert "1.00 USD" in capsys.readouterr().out


async def test_files_are_recorded_as_a_whole(
    saga: World, tmp_path: Path, unique: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = f"ONE-{unique}", f"TWO-{unique}"
    await waiting(one, two)
    table, lines, broken, unknown = (tmp_path / name for name in ("a.csv", "b.ndjson", "c.csv", "d.csv"))
    header = "order_id,amount,reference"
    table.write_text(f"{header}\n{two},999.99,B-1\n{one},500,B-2\n")
    lines.write_text(json.dumps({"order_id": one, "amount": 499.99, "reference": "B-3"}) + "\n")
    broken.write_text(f"{header}\n{one},500,B-4\n\n{one},0,B-5\n{two},1,\n")
    unknown.write_text(f"{header}\nnobody,5,B-6\n{one},5,B-7\n{two},5,B-1\n")
    assert await run("--file", str(broken), "--by", "ann") == 2
    printed = capsys.readouterr().out
    assert "line 4: amount" in printed
    assert "line 5: reference" in printed
    assert received(saga) == set()
    for _ in range(2):
        assert await run("--file", str(table), "--by", "ann") == 0
        assert await run("--file", str(lines), "--by", "ann") == 0
    capsys.readouterr()
    assert await run("--file", str(unknown), "--by", "ann") == 1
    printed = capsys.readouterr().out
    assert "line 2: order_id" in printed
    assert "line 4: reference" in printed
    assert "line 3" not in printed
    assert {reference for _, reference, _, _ in received(saga)} == {"B-1", "B-2", "B-3"}
    await process_pending_orders(consumer_seconds=0)
    assert [saga.order(each).outcome for each in (one, two)] == [Outcome.COMPLETED] * 2
    saga.assert_books_balance()


async def test_over_http(saga: World, web: httpx.Client, unique: str) -> None:
    await waiting(unique)
    await process_order(an_order(f"CARD-{unique}"), return_state=True)
    body = {"amount": "999.99", "reference": "T/1", "recorded_by": "ann"}

    async def post(to: str, **fields: Any) -> httpx.Response:
        sent = {name: value for name, value in {**body, **fields}.items() if value is not None}
        path = f"/orders/{quote(to, safe='')}/payments"
        return await asyncio.to_thread(web.post, path, json=sent)

    first, again = await post(unique), await post(unique, recorded_by="bob")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.headers["location"] == f"/orders/{unique}"
    assert (first.json()["new"], again.json()["new"]) == (True, False)
    assert again.json()["total_received"] == "999.99"
    problem(await post(unique, amount="1000"), 409)
    problem(await post(f"CARD-{unique}"), 409)
    problem(await post("nobody"), 404)
    wrong = problem(await post(unique, amount="0", reference=None, recorded_by=" ", more=1), 422)
    assert {each["pointer"] for each in wrong["errors"]} == {
        "#/amount",
        "#/reference",
        "#/recorded_by",
        "#/more",
    }
    wrong = problem(await post(unique, amount="1.001", reference="T-2"), 422)
    assert [each["pointer"] for each in wrong["errors"]] == ["#/amount"]
    wrong = problem(await post(unique, order_id="other"), 422)
    assert [each["pointer"] for each in wrong["errors"]] == ["#/order_id"]
    assert "4242" not in str(problem(await post(unique, recorded_by="4242 4242 4242 4242"), 422))
    answer = await asyncio.to_thread(httpx.post, f"{web.base_url}/orders/{unique}/payments", json=body)
    assert answer.status_code == 401
    assert received(saga) == {(unique, "T/1", PRICE, "ann")}
    await process_pending_orders(consumer_seconds=0)
    assert saga.order(unique).outcome == Outcome.COMPLETED
    assert saga.shipments(unique) == 1


async def test_the_form_records_once(saga: World, unique: str, wakeups: list[str]) -> None:
    await waiting(unique)
    states = [await record_payment(unique, " 999.99", "T-1", by, return_state=True) for by in ("ann", "bob")]
    assert [state.name for state in states] == ["Recorded", "Known"]
    assert wakeups == ["flows.record_payment"]
    refused = await record_payment(unique, "1", "T-1", "ann", return_state=True)
    assert refused.is_failed()
    assert received(saga) == {(unique, "T-1", PRICE, "ann")}
    await process_pending_orders(consumer_seconds=0)
    assert saga.order(unique).outcome == Outcome.COMPLETED


async def test_the_customer_is_asked_for_the_money_once(saga: World, unique: str) -> None:
    order = an_order(unique, payment_info=TRANSFER, order_number="#1071")
    intake.submit([order])
    await process_pending_orders(consumer_seconds=0)
    assert saga.mail_kinds(unique) == {"awaiting_payment"}
    text = saga.mail(unique, "awaiting_payment")
    assert "999.99 USD" in text
    assert "#1071" in text
    await run(unique, "1", "--reference", "T-1", "--by", "ann")
    await process_pending_orders(consumer_seconds=0)
    rows = saga.sql("SELECT attempts, payload ->> 'amount' FROM outbox WHERE kind = 'awaiting_payment'")
    assert rows == [(1, "999.99")]
    assert len(saga.sql("SELECT 1 FROM customer_interaction WHERE kind = 'order_awaiting_payment'")) == 1


async def test_no_payment_is_requested_for_money_that_has_come(saga: World, unique: str) -> None:
    await waiting(unique)
    saga.sql("UPDATE outbox SET sent_at = NULL, next_attempt_at = now() + interval '1 hour'")
    assert await run(unique, "999.99", "--reference", "T-1", "--by", "ann") == 0
    await process_pending_orders(consumer_seconds=0)
    assert saga.sql("SELECT kind FROM outbox") == [("confirmation",)]


async def test_waiting_for_money_is_no_alert(saga: World, unique: str) -> None:
    await waiting(unique)
    saga.sql("UPDATE customer_order SET submitted_at = now() - interval '3 days'")
    saga.sql("UPDATE customer_order SET waits_since = now() - interval '3 days'")
    assert breaches() == []
    assert await run(unique, "999.99", "--reference", "T-1", "--by", "ann") == 0
    assert breaches() == [], "it is due now, and not for three days"


async def test_a_paid_rejected_order_goes_to_review_and_no_system_is_unavailable(
    saga: World, unique: str
) -> None:
    paid = {"method": "already_paid", "reference": "paypal-1"}
    orders = [an_order(f"{unique}-{n}", payment_info=paid, total_amount="1") for n in range(25)]
    intake.submit(orders)
    await process_pending_orders(consumer_seconds=0)
    rules = {rule for rule, _ in breaches()}
    assert Rule.NEEDS_ATTENTION in rules
    assert Rule.EXTERNAL_UNAVAILABLE not in rules
    cases = attention.read_queue_sync().cases
    assert {case.error_code for case in cases} == {"paid_and_rejected"}
    assert "order-saga retry" in advice(cases[0])


async def test_money_that_comes_too_late_is_reported(
    saga: World, unique: str, capsys: pytest.CaptureFixture[str]
) -> None:
    intake.submit([an_order(unique, payment_info=TRANSFER)])
    saga.sql("UPDATE customer_order SET submitted_at = now() - interval '15 days'")
    await process_pending_orders(consumer_seconds=0)
    assert await run(unique, "999.99", "--reference", "T-1", "--by", "ann", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["outcome"], printed["total_received"]) == ("compensated", "999.99")
    assert await run(unique, "999.99", "--reference", "T-1", "--by", "ann") == 0, "the same again is harmless"
    await process_pending_orders(consumer_seconds=0)
    assert await run(unique, "999.99", "--reference", "T-1", "--by", "ann") == 0
    assert "needs_attention" in capsys.readouterr().out
    assert saga.order(unique).amount_at_risk == PRICE
    assert saga.mail_kinds(unique) == {"payment_failed"}
    assert "not received the money" in saga.mail(unique, "payment_failed")


async def test_money_that_comes_before_the_order_begins_is_not_lost(saga: World, unique: str) -> None:
    paid, unpaid = f"PAID-{unique}", f"UNPAID-{unique}"
    intake.submit([an_order(each, product="OUT-OF-STOCK", payment_info=TRANSFER) for each in (paid, unpaid)])
    assert await run(paid, "999.99", "--reference", "T-1", "--by", "ann") == 0
    await process_pending_orders(consumer_seconds=0)
    assert saga.order(unpaid).outcome == Outcome.OUT_OF_STOCK
    assert saga.mail_kinds(unpaid) == {"out_of_stock"}
    assert saga.order(paid).outcome == Outcome.NEEDS_ATTENTION
    assert saga.mail_kinds(paid) == set()
    (case,) = attention.read_queue_sync().cases
    assert (case.order_id, case.amount_at_risk, case.error_code) == (paid, PRICE, "paid_elsewhere")
    saga.assert_books_balance()


def breaches() -> list[tuple[Rule, str]]:
    """What is wrong according to the alert rules."""
    with sync_engine(settings().database_url).connect() as connection:
        found = evaluate(connection, Monitoring(), settings(), frozenset())
    return [(each.rule, each.subject) for each in found]


def test_every_problem_of_a_payment_is_named() -> None:
    given = {
        "order_id": "a\u200bb",
        "amount": "0",
        "reference": "",
        "recorded_by": "4242424242424242",
        "x": 1,
    }
    with pytest.raises(NotReceivable) as refused:
        read_incoming(given)
    fields = {field for field, _ in refused.value.problems}
    assert fields == {"order_id", "amount", "reference", "recorded_by", "x"}
    assert "4242" not in str(refused.value)
