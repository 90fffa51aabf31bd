"""What the Prefect UI is given to show: pages of orders,
the progress of a batch, the dashboard, the daily report and its mail."""

from __future__ import annotations

import asyncio
import html
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactCollectionFilter,
    ArtifactCollectionFilterKey,
)

from deployments.cli import order_saga
from deployments.environment import environment
from flows import order_picture, progress
from flows import show_dashboard as dashboard
from flows.daily_report import daily_report
from flows.housekeeping import housekeeping
from flows.order_saga import ORDER_SAGA
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from flows.show_dashboard import show_dashboard
from flows.show_order import show_order
from shop.monitoring.dashboard.figures import read_figures
from shop.orders import intake
from shop.orders.order import EXAMPLE
from shop.orders.outcomes import Outcome
from shop.orders.page.page import order_page, page_key
from shop.orders.page.story import read_story
from shop.payments.recording import read_incoming, record
from shop.retention.customers import erase_customers
from shop.review.errors import OrderUnknown
from shop.runtime.times import bounds_of, day_of
from shop.settings import settings
from tests.integration.artifacts import artifacts, page_of
from tests.integration.test_process_order import stop_while_charging
from tests.integration.world import World, an_order, html_of, text_of
from tests.mail_server import mail_server
from tests.waiting import until


class TestOrderPages:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({}, ["completed<br/>after", "fulfill_order<br/>done", "999&#46;99 USD"]),
            (
                {"items": [], "customer_email": "secret-address"},
                ["validate_order<br/>failed", "check_inventory<br/>skipped"],
            ),
            ({"product": "OUT-OF-STOCK"}, ["check_inventory<br/>failed"]),
            ({"card": "0000"}, ["payment declined", "release_inventory<br/>done", "refund_payment<br/>"]),
            (
                {"card": "0259", "country": "AQ"},
                ["refund_payment<br/>failed", "refund refused", "needs#95;attention<br/>after"],
            ),
            ({"card": "0119"}, ["3 attempts"]),
        ],
    )
    @pytest.mark.usefixtures("prefect_api")
    async def test_every_run_has_its_order_s_page(
        self, saga: World, unique: str, fields: dict[str, Any], expected: list[str]
    ) -> None:
        state = await process_order(an_order(f"PAGE-{unique}", **fields), return_state=True)
        page = await page_of(f"PAGE-{unique}", state.state_details.flow_run_id)
        page_in_words = page.replace("#95;", "_")
        assert "```mermaid\nflowchart TD\n" in page
        for words in expected:
            assert words.replace("#95;", "_") in page_in_words
        for secret in ("secret-address", "john.doe@example.com", "John Doe", "123 Main"):
            assert secret not in page

    @pytest.mark.usefixtures("prefect_api")
    async def test_a_cancelled_run_has_one_too(self, saga: World, unique: str) -> None:
        order = an_order(f"PAGE-{unique}", card="0341")
        await stop_while_charging(saga, order)
        page = await page_of(order["id"], saga.order(order["id"]).flow_run_id)
        assert "compensated (cancelled)" in page.replace("&#40;", "(").replace("&#41;", ")")
        assert saga.money(order["id"])[0] == saga.money(order["id"])[1]

    @pytest.mark.usefixtures("prefect_api")
    async def test_a_hostile_id_is_shown_and_breaks_nothing(self, saga: World, unique: str) -> None:
        order_id = f'"]; click x "javascript:1" ``` <b> {unique}'
        await process_order(an_order(order_id), return_state=True)
        assert (await page_of(order_id)).count("```") == 2

    @pytest.mark.usefixtures("prefect_api")
    async def test_a_page_that_cannot_be_made_fails_and_delays_nothing(
        self, saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def hangs(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(order_picture, "acreate_markdown_artifact", hangs)
        monkeypatch.setattr(order_picture, "_LIMIT_SECONDS", 0.2)
        async with asyncio.timeout(30):
            state = await process_order(an_order(f"PAGE-{unique}"), return_state=True)
        assert state.name == "Completed"
        assert await artifacts(page_key(f"PAGE-{unique}")) == []

    @pytest.mark.usefixtures("prefect_api")
    async def test_a_run_that_left_its_order_shows_who_went_on_and_how(
        self, saga: World, unique: str
    ) -> None:
        order_id = f"LEFT-{unique}"
        dead = (await process_order(an_order(f"OTHER-{unique}"), return_state=True)).state_details.flow_run_id
        await asyncio.to_thread(intake.submit, [an_order(order_id)])
        saga.sql(
            "INSERT INTO lease (id, holder, until) VALUES (:id, 'dead', now() - interval '1 s')",
            id=UUID(int=7),
        )
        saga.sql(
            "UPDATE customer_order SET lease_id = :lease, fence = 1, flow_run_id = :run WHERE id = :id",
            lease=UUID(int=7),
            run=str(dead),
            id=order_id,
        )
        state = await housekeeping(return_state=True)
        assert (await state.aresult())["recovered"] == 1
        me = state.state_details.flow_run_id
        assert "completed<br/>after" in await page_of(order_id, dead)
        (forth,) = await artifacts("recovered-by", dead)
        (back,) = await artifacts("recovered-orders", me)
        assert f"](../../runs/flow-run/{me})" in str(forth.data)
        assert f"](../../runs/flow-run/{dead})" in str(back.data)

    @pytest.mark.usefixtures("prefect_api")
    async def test_an_order_of_a_batch_is_shown_on_request(self, saga: World, unique: str) -> None:
        await asyncio.to_thread(
            intake.submit, [an_order(f"A-{unique}"), an_order(f"B-{unique}", country="AQ")]
        )
        await process_pending_orders(consumer_seconds=0)
        assert await artifacts(page_key(f"B-{unique}")) == []
        state = await show_order(f" B-{unique} ", return_state=True)
        assert "release_inventory<br/>done" in await page_of(f"B-{unique}", state.state_details.flow_run_id)
        with pytest.raises(OrderUnknown):
            await show_order(f"b-{unique}")


@pytest.mark.usefixtures("prefect_api")
async def test_the_command_draws_one_order(
    saga: World, unique: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await process_order(an_order(f"DRAW-{unique}", country="AQ"), return_state=True)
    capsys.readouterr()
    assert await asyncio.to_thread(order_saga, ["show", f"DRAW-{unique}"]) == 0
    mermaid = capsys.readouterr().out
    assert mermaid in await page_of(f"DRAW-{unique}")
    assert await asyncio.to_thread(order_saga, ["show", f"DRAW-{unique}", "--ascii"]) == 0
    assert "◀─ │ ↶ refund_payment (1)" in capsys.readouterr().out
    assert await asyncio.to_thread(order_saga, ["show", "NOBODY"]) == 1
    assert "There is no order NOBODY" in capsys.readouterr().err


@pytest.mark.usefixtures("prefect_api")
async def test_a_batch_shows_its_progress_and_its_outcomes(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress.Progress.__init__, "__kwdefaults__", {"pause": 0.2})
    orders = [an_order(f"P{place}-{unique}", product="PROD-002") for place in range(6)]
    orders += [an_order(f"AQ-{unique}", country="AQ"), an_order(f"ATT-{unique}", card="0259", country="AQ")]
    orders += [an_order(f"SLOW-{unique}", card="0119"), an_order(f"OUT-{unique}", product="OUT-OF-STOCK")]
    await asyncio.to_thread(intake.submit, orders)
    state = await process_pending_orders(consumer_seconds=0, return_state=True)
    run = state.state_details.flow_run_id
    (bar,) = await artifacts(progress.PROGRESS_KEY, run)
    assert float(str(bar.data)) == 100
    assert str(bar.description).startswith("10 of 10 orders ended")
    assert bar.updated is not None
    assert bar.created is not None
    assert bar.updated > bar.created, "it was shown before the end"
    (table,) = await artifacts(progress.OUTCOMES_KEY, run)
    plain = str(table.data).replace("&#95;", "_").replace("&#46;", ".").replace("&#45;", "-")
    assert "| completed | 7 | 70.0 % |" in plain
    charged = sum((saga.money(order["id"])[0] for order in orders), start=saga.money("nobody")[0])
    refunded = sum((saga.money(order["id"])[1] for order in orders), start=saga.money("nobody")[1])
    assert f"| USD | {charged:,.2f} USD | {refunded:,.2f} USD | 999.99 USD |" in plain
    first = plain.index(f"| ATT-{unique} | needs_attention | fulfill_order | carrier_refused |")
    assert first < plain.index(f"| OUT-{unique} | out_of_stock |"), "those that need a person come first"


@pytest.mark.usefixtures("prefect_api")
async def test_a_consumer_without_orders_shows_nothing(saga: World) -> None:
    state = await process_pending_orders(consumer_seconds=0, return_state=True)
    for key in (progress.PROGRESS_KEY, progress.OUTCOMES_KEY):
        assert await artifacts(key, state.state_details.flow_run_id) == []


@pytest.mark.usefixtures("prefect_api")
async def test_the_dashboard_counts_what_the_journal_has(
    saga: World, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(
        intake.submit,
        [an_order(f"D{place}-{unique}") for place in range(4)] + [an_order(f"NO-{unique}", card="0000")],
    )
    await process_pending_orders(consumer_seconds=0)
    state = await show_dashboard(hours=1, return_state=True)
    assert (await state.aresult()).startswith("5 orders ended; 80.0 % completed; half within ")
    (page,) = await artifacts("order-dashboard", state.state_details.flow_run_id)
    plain = str(page.data).replace("&#95;", "_").replace("&#46;", ".").replace("&#45;", "-")
    assert str(page.data).count("](data:image/svg+xml;base64,") == 5
    assert re.search(r"\| process_payment \| 5 \| 1 \| 0 \| 0\.0 % \| 0 \| [01] \|", plain), (
        "a declined card is no failure of ours"
    )
    assert "| OUT-OF-STOCK | Sold out | 0 | 0 |" in plain
    saga.sql(
        "UPDATE order_step SET status = 'failed', error = '{\"code\": \"step_broken\"}' "
        "WHERE step = 'notify_customer'"
    )
    monkeypatch.setenv("INVENTORY_SERVICE_URL", "http://127.0.0.1:1")
    settings.cache_clear()
    now = datetime.now(UTC)
    found = await read_figures(now - timedelta(hours=1), now)
    assert {step.step: step.error_rate for step in found.steps}["notify_customer"] == 1
    assert found.low_stock is None, "what our own tables say of it is not the stock"


@pytest.mark.usefixtures("prefect_api")
async def test_only_the_last_dashboards_are_kept(saga: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dashboard, "_KEPT", 2)
    runs = [(await show_dashboard(return_state=True)).state_details.flow_run_id for _ in range(4)]
    assert [page.flow_run_id for page in await artifacts("order-dashboard")] == runs[-2:]
    latest = ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=["order-dashboard"]))
    async with get_client() as client:
        (shown,) = await client.read_latest_artifacts(artifact_filter=latest)
    assert shown.flow_run_id == runs[-1]


class TestDailyReport:
    @pytest.mark.usefixtures("prefect_api")
    async def test_it_is_mailed_once_with_its_figures(self, saga: World, unique: str) -> None:
        await asyncio.to_thread(intake.submit, [an_order(f"R{place}-{unique}") for place in range(3)])
        await process_pending_orders(consumer_seconds=0)
        saga.sql(
            "UPDATE customer_order SET submitted_at = submitted_at - interval '1 day', "
            "finished_at = finished_at - interval '1 day'"
        )
        saga.sql(
            "UPDATE order_step SET ended_at = ended_at - interval '1 day', "
            "begun_at = begun_at - interval '1 day'"
        )
        day = (datetime.now(UTC) - timedelta(days=1)).date()
        with (
            mail_server() as server,
            environment(
                {"SMTP_URL": f"smtp://{server.host}:{server.port}", "REPORT_EMAIL": "boss@shop.example"}
            ),
        ):
            settings.cache_clear()
            assert await daily_report() is True
            assert await daily_report() is False
            assert await daily_report(day) is False
        settings.cache_clear()
        (taken,) = server.taken
        assert taken.recipients == ("boss@shop.example",)
        assert taken.mail["Subject"] == f"The Shop: orders of {day}"
        assert taken.id == f"<daily_report-{day}-{saga.installation}@shop.example>"
        assert "3 orders ended; 100.0 % completed" in text_of(taken.mail)
        html = html_of(taken.mail)
        assert "3 (100.0 %)" in html
        assert 'bgcolor="#2f9e64"' in html
        assert "image" not in {part.get_content_maintype() for part in taken.mail.walk()}
        assert "http" not in html, "nothing is fetched from outside"
        assert [str(page.description) for page in await artifacts("daily-report")][-1].startswith(
            f"{day}: 3 orders ended"
        )
        assert not any(f"R0-{unique}" in str(taken.data) for taken in server.taken)

    async def test_the_day_is_the_shops(self, saga: World, unique: str) -> None:
        intake.submit([an_order(f"{number}-{unique}") for number in range(3)])
        await process_pending_orders(consumer_seconds=0)
        with environment({"SHOP_TIMEZONE": "Asia/Kathmandu"}):
            day = day_of(datetime.now(UTC)) - timedelta(days=1)
            since, until_ = bounds_of(day)
            for number, ended in enumerate((since - timedelta(minutes=1), since, until_)):
                saga.sql(
                    "UPDATE customer_order SET submitted_at = :at, finished_at = :at WHERE id = :id",
                    at=ended,
                    id=f"{number}-{unique}",
                )
            saga.sql("DELETE FROM outbox")
            assert await daily_report() is True
            (report,) = [mail for name, mail in saga.mails().items() if name.endswith("daily_report.eml")]
            assert report["Subject"] == f"The Shop: orders of {day}"
            assert "1 orders ended" in text_of(report)
            assert "Asia/Kathmandu" in html_of(report)

    async def test_without_a_mail_server_it_is_in_the_maildir(self, saga: World) -> None:
        assert await daily_report() is True
        (name,) = saga.mails()
        assert name.endswith(".daily_report.eml")
        assert saga.mails()[name]["To"] == "support@shop.example"

    async def test_one_that_is_refused_for_now_is_sent_later_and_is_the_same(self, saga: World) -> None:
        with mail_server() as server, environment({"SMTP_URL": f"smtp://{server.host}:{server.port}"}):
            settings.cache_clear()
            server.answer_data = lambda _: "451 not now"
            assert await daily_report() is True
            assert server.taken == []
            server.answer_data = lambda _: None
            saga.sql("UPDATE outbox SET next_attempt_at = now()")
            await process_pending_orders(consumer_seconds=0)
            await until(lambda: _is(len(server.taken) == 1), 20, "the report")
        settings.cache_clear()
        assert Outcome.COMPLETED not in str(server.taken[0].data)

    async def test_a_day_that_is_not_over_is_shown_and_not_mailed(self, saga: World) -> None:
        assert await daily_report(datetime.now(UTC).date()) is False
        assert saga.mails() == {}
        assert saga.sql("SELECT count(*) FROM outbox")[0][0] == 0


async def _is(value: bool) -> bool:
    return value


async def test_what_was_ordered_and_how_it_is_paid(
    saga: World, unique: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page, which Prefect keeps, has nothing of the customer; the command has."""
    line = {"product_id": "PROD-001", "quantity": 2, "price": "10", "variant": "red, XL", "sku": "AB-7"}
    mine = {"properties": {"Engraving": "To MARIE-qmarker"}}
    order = an_order(
        unique,
        customer_id=None,
        items=[{**line, **mine}],
        total_amount="27.50",
        fees=[{"name": "Gift wrapping", "amount": "5"}],
        tip_amount="2.50",
        tax_amount="3.33",
        prices_include_tax=True,
        part_payments=[{"method": "gift_card", "amount": "7.50", "provider": "cards inc"}],
        payment_info={"method": "cash_on_delivery"},
        order_number="#1071",
        ordered_at="2031-02-03T04:05:06+01:00",
        billing_info={"name": "BILL-qmarker", "vat_id": "ATU1", "company": "ACME-qmarker"},
        metadata={"gift": "META-qmarker"},
    )
    await process_order(order, return_state=True)
    story = await read_story(unique)
    assert story is not None
    page = html.unescape(order_page(story, ORDER_SAGA, settings()))
    for seen in (
        "#1071",
        "2031-02-03",
        "a guest",
        "AB-7",
        "5.00 USD",
        "2.50 USD",
        "3.33 USD",
        "27.50 USD",
        "gift card, cards inc",
        "20.00 USD by cash on delivery, to collect 20.00 USD",
    ):
        assert seen in page, seen
    for hidden in (
        "qmarker",
        "XL",
        "wrapping",
        "ATU1",
        EXAMPLE["customer_email"],
        EXAMPLE["shipping_info"]["address"],
    ):
        assert hidden not in page

    async def shown() -> str:
        assert await asyncio.to_thread(order_saga, ["show", unique, "--ascii"]) == 0
        return capsys.readouterr().out

    for word in (
        "#1071",
        "red, XL",
        "Gift wrapping",
        "MARIE-qmarker",
        "BILL-qmarker",
        "ACME-qmarker",
        "META-qmarker",
    ):
        assert word in await shown()
    payment = read_incoming(
        {"order_id": unique, "amount": "20", "reference": "DHL-1", "recorded_by": "carrier"}
    )
    await record(payment)
    assert "20.00 USD by cash on delivery, received" in await shown()
    await asyncio.to_thread(erase_customers, 0)
    erased = await shown()
    assert "qmarker" not in erased
    assert "27.50 USD" in erased
