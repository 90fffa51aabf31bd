"""Stripe's webhooks, over HTTP, with the SDK's own signatures;
effects are checked against localstripe's ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
import time_machine
from prefect.artifacts import Artifact
from stripe import WebhookSignature

from flows.attention_artifact import KEY as BOARD
from flows.housekeeping import housekeeping
from flows.process_pending_orders import process_pending_orders
from shop.orders import intake, report
from shop.orders.outcomes import Outcome
from shop.payments.errors import PaymentGatewayError
from shop.payments.gateway import Payment
from shop.payments.stripe.gateway import StripeGateway
from shop.review.attention import read_queue_sync
from shop.settings import settings
from tests.integration.scripted_server import Request, http
from tests.integration.stripe_world import StripeWorld, paid_by
from tests.integration.test_stripe_answers import answering_stripe
from tests.integration.test_stripe_orders import _pay
from tests.integration.web import (
    SECRET,
    about_charge,
    about_dispute,
    about_payment,
    event,
    send,
    served,
    signed,
)
from tests.integration.world import an_order
from tests.waiting import until

PRICE = Decimal("999.99")
OLD_SECRET = "whsec_test_secret_0"


@pytest.fixture
def shop(stripe_saga: StripeWorld, monkeypatch: pytest.MonkeyPatch) -> StripeWorld:
    """Runs are started by the tests themselves, not by the web app."""
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", f"{SECRET},{OLD_SECRET}")
    for name in ("wake_pending_lane", "start_handling_events"):
        monkeypatch.setattr(f"deployments.web.app.{name}", lambda: None)
    settings.cache_clear()
    return stripe_saga


@pytest.fixture
def web(shop: StripeWorld) -> Iterator[httpx.Client]:
    with served() as client:
        yield client


async def ordered(*orders: dict[str, Any]) -> None:
    intake.submit(orders)
    await process_pending_orders(consumer_seconds=0)


async def handle_events() -> dict[str, int]:
    done = await housekeeping()
    return {"handled": done["events_handled"], "later": done["events_postponed"]}


def declined(order_id: str) -> dict[str, Any]:
    return paid_by("pm_card_chargeCustomerFail", an_order(order_id))


def ended(order_id: str) -> Any:
    return report.read([order_id])[order_id]


def is_due(shop: StripeWorld, order_id: str) -> bool:
    """Returns whether the order is no longer postponed."""
    return bool(shop.order(order_id).not_before <= datetime.now(UTC))


def done(shop: StripeWorld, event_id: str) -> str | None:
    found: str | None = shop.sql("SELECT done FROM payment_event WHERE id = :id", id=event_id)[0][0]
    return found


def send_event(web: httpx.Client, event_id: str, kind: str, about: dict[str, Any]) -> str:
    answer = send(web, event(event_id, kind, about))
    assert answer.status_code == 200, answer.text
    received: str = answer.json()["received"]
    return received


class TestWhoIsBelieved:
    """Nothing but what Stripe has signed, lately, with a secret of ours."""

    BODY = event("evt_1", "payment_intent.succeeded", about_payment("pi_1", "O-1"))

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            (lambda body: (body, {"Stripe-Signature": ""}), 400),
            (lambda body: (body, {"Stripe-Signature": "t=1,v1=" + "0" * 64}), 400),
            (lambda body: (body, {"Stripe-Signature": "rubbish \x7f"}), 400),
            (lambda body: (body, signed(body, secret="whsec_of_another")), 400),
            (lambda body: (body, signed(body, ago=400)), 400),
            (lambda body: (body.replace("O-1", "O-2"), signed(body)), 400),
            (lambda body: (b"\xff" + body.encode(), signed(body)), 400),
            (lambda body: ("[]", signed("[]")), 422),
            (lambda body: ("{", signed("{")), 422),
            (lambda body: ('{"object": "v2.core.event"}', signed('{"object": "v2.core.event"}')), 422),
            (lambda body: (body.replace("evt_1", "evt-1"), signed(body.replace("evt_1", "evt-1"))), 422),
            (lambda body: (body.replace('"pi_1"', "7"), signed(body.replace('"pi_1"', "7"))), 422),
            (lambda body: (" " * 2_000_000, signed(" " * 2_000_000)), 413),
        ],
        ids=[
            "none",
            "made up",
            "rubbish",
            "other secret",
            "old",
            "changed",
            "not text",
            "list",
            "no JSON",
            "thin",
            "id",
            "payment",
            "large",
        ],
    )
    def test_what_is_wrong_is_a_problem_and_nothing_is_kept(
        self,
        web: httpx.Client,
        shop: StripeWorld,
        change: Callable[[str], tuple[str | bytes, dict[str, str]]],
        status: int,
    ) -> None:
        body, headers = change(self.BODY)
        answer = web.post("/webhooks/stripe", content=body, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), (
            answer.text
        )
        assert "O-1" not in answer.text
        assert shop.sql("SELECT count(*) FROM payment_event") == [(0,)]

    @pytest.mark.parametrize("wrong", [-3 * 3600, 3 * 3600], ids=["behind", "ahead"])
    def test_a_wrong_clock_of_the_web_app_s_machine_has_no_effect(
        self, web: httpx.Client, shop: StripeWorld, wrong: int
    ) -> None:
        fresh, old = signed(self.BODY), signed(self.BODY, ago=400)
        with time_machine.travel(time.time() + wrong, tick=True):
            answers = [
                web.post("/webhooks/stripe", content=self.BODY, headers=headers).status_code
                for headers in (old, fresh)
            ]
        assert answers == [400, 200]
        assert shop.sql("SELECT count(*) FROM payment_event") == [(1,)]

    def test_the_signed_time_is_the_one_that_is_looked_at(self, web: httpx.Client, shop: StripeWorld) -> None:
        """Whatever is added to an intercepted header."""
        old = signed(self.BODY, ago=400)
        stamp, _, signature = old["Stripe-Signature"].partition(",")
        for changed in (
            f"{stamp}=9,{signature}",
            f"{stamp},t={int(time.time())},{signature}",
            f"t={int(time.time())},{stamp},{signature}",
        ):
            answer = web.post(
                "/webhooks/stripe", content=self.BODY, headers={**old, "Stripe-Signature": changed}
            )
            assert answer.status_code == 400
        assert shop.sql("SELECT count(*) FROM payment_event") == [(0,)]

    def test_both_secrets_hold_while_one_replaces_the_other(
        self, web: httpx.Client, shop: StripeWorld
    ) -> None:
        other = self.BODY.replace("evt_1", "evt_2")
        assert send(web, self.BODY, secret=SECRET).status_code == 200
        assert send(web, other, secret=OLD_SECRET).status_code == 200
        assert shop.sql("SELECT count(*) FROM payment_event") == [(2,)]

    def test_the_header_is_as_the_sdk_makes_it(self, web: httpx.Client) -> None:
        header = WebhookSignature.generate_signature_header(self.BODY, SECRET)
        assert web.post(
            "/webhooks/stripe", content=self.BODY, headers={"Stripe-Signature": header}
        ).json() == {"received": "stored"}

    def test_a_replay_is_known_and_other_kinds_are_ignored(
        self, web: httpx.Client, shop: StripeWorld
    ) -> None:
        assert [send(web, self.BODY).json()["received"] for _ in range(3)] == ["stored", "known", "known"]
        assert send_event(web, "evt_2", "customer.created", {"id": "cus_1", "name": "PLANTED"}) == "ignored"
        assert shop.sql("SELECT id FROM payment_event") == [("evt_1",)]

    def test_without_a_secret_it_explains_how(
        self, stripe_saga: StripeWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("STRIPE_WEBHOOK_SECRET", raising=False)
        settings.cache_clear()
        with served() as client:
            answer = send(client, self.BODY)
        assert (answer.status_code, "STRIPE_WEBHOOK_SECRET" in answer.json()["detail"]) == (503, True)

    def test_a_failing_database_is_reported_so_that_stripe_sends_again(
        self, web: httpx.Client, shop: StripeWorld
    ) -> None:
        shop.sql("ALTER TABLE payment_event RENAME TO gone")
        assert send(web, self.BODY).status_code == 503
        shop.sql("ALTER TABLE gone RENAME TO payment_event")
        assert send(web, self.BODY).json() == {"received": "stored"}


class TestOrdersThatWait:
    async def test_an_order_resumes_as_soon_as_its_customer_has_answered(
        self, web: httpx.Client, shop: StripeWorld, unique: str
    ) -> None:
        await ordered(shop.asking(unique))
        (entry,) = shop.ledger(unique)
        waits = shop.order(unique)
        assert (waits.waits_for, waits.not_before > waits.waits_since) == ("payment_needs_customer", True)
        send_event(web, "evt_early", "payment_intent.requires_action", about_payment(entry["id"], unique))
        assert not is_due(shop, unique), "nothing is decided yet"
        shop.stripe.authenticate(entry["id"], success=True)

        assert (
            send_event(web, "evt_1", "payment_intent.succeeded", about_payment(entry["id"], unique))
            == "stored"
        )

        assert is_due(shop, unique)
        await process_pending_orders(consumer_seconds=0)
        assert ended(unique).outcome is Outcome.COMPLETED
        assert (shop.charges(unique), shop.shipments(unique)) == (1, 1)
        assert await handle_events() == {"handled": 0, "later": 0}, "no call to Stripe for what is in order"
        assert (done(shop, "evt_1"), done(shop, "evt_early")) == ("in order", "in order")

    async def test_another_orders_payment_wakes_no_run(
        self, web: httpx.Client, shop: StripeWorld, unique: str
    ) -> None:
        await ordered(shop.asking(unique))
        send_event(web, "evt_1", "payment_intent.succeeded", about_payment("pi_foreign", unique))
        assert not is_due(shop, unique)

    async def test_an_event_is_not_judged_before_its_order_has_ended(
        self, web: httpx.Client, shop: StripeWorld, unique: str
    ) -> None:
        await ordered(shop.asking(unique))
        send_event(
            web, "evt_1", "payment_intent.succeeded", about_payment("pi_another", unique, shop.installation)
        )
        assert await handle_events() == {"handled": 0, "later": 0}
        assert done(shop, "evt_1") is None


class TestLateSuccesses:
    async def test_what_is_charged_after_the_end_goes_back(
        self, web: httpx.Client, shop: StripeWorld, unique: str
    ) -> None:
        """Reported twice, with a wrong amount;
        the refund is Stripe's, made once, and the customer gets a mail."""
        await ordered(declined(unique))
        assert ended(unique).outcome is Outcome.COMPENSATED
        await _pay(unique, confirm=True)
        late = next(entry for entry in shop.ledger(unique) if entry["status"] == "succeeded")
        assert shop.money(unique) == (PRICE, 0)

        for event_id in ("evt_1", "evt_1", "evt_2"):
            send_event(web, event_id, "payment_intent.succeeded", about_payment(late["id"], unique))
        assert await handle_events() == {"handled": 2, "later": 0}

        assert shop.money(unique) == (PRICE, PRICE)
        assert len(shop.stripe.all("refunds")) >= 1
        assert sum(len(entry["refunds"]) for entry in shop.ledger(unique)) == 1
        assert (ended(unique).outcome, ended(unique).amount_refunded) == (Outcome.COMPENSATED, PRICE)
        assert "refund" in shop.mail_kinds(unique)
        shop.assert_books_balance()

    async def test_a_late_success_whose_event_names_no_order_is_found_by_its_payment(
        self, web: httpx.Client, shop: StripeWorld, unique: str
    ) -> None:
        await ordered(declined(unique))
        await _pay(unique, confirm=True)
        late = next(entry for entry in shop.ledger(unique) if entry["status"] == "succeeded")
        send_event(web, "evt_1", "payment_intent.succeeded", about_payment(late["id"], None))
        await handle_events()
        assert shop.money(unique) == (PRICE, PRICE)
        assert shop.sql("SELECT order_id FROM payment_event") == [(unique,)]

    async def test_events_in_the_wrong_sequence_come_to_the_same(
        self, web: httpx.Client, shop: StripeWorld, unique: str
    ) -> None:
        """The events come out of sequence: refund, success, creation."""
        await ordered(declined(unique))
        await _pay(unique, confirm=True)
        late = next(entry for entry in shop.ledger(unique) if entry["status"] == "succeeded")
        send_event(web, "evt_3", "charge.refunded", about_charge(late["id"], unique))
        send_event(web, "evt_2", "payment_intent.succeeded", about_payment(late["id"], unique))
        send_event(web, "evt_1", "payment_intent.created", about_payment(late["id"], unique))
        await handle_events()
        assert shop.money(unique) == (PRICE, PRICE)
        assert sum(len(entry["refunds"]) for entry in shop.ledger(unique)) == 1
        shop.assert_books_balance()

    async def test_what_was_only_created_late_is_cancelled(
        self, web: httpx.Client, shop: StripeWorld, unique: str
    ) -> None:
        await ordered(paid_by("pm_card_visa", an_order(unique)))
        await _pay(unique, confirm=False)
        left = next(entry for entry in shop.ledger(unique) if entry["status"] != "succeeded")
        send_event(web, "evt_1", "payment_intent.created", about_payment(left["id"], unique))
        await handle_events()
        assert sorted(entry["status"] for entry in shop.ledger(unique)) == ["canceled", "succeeded"]
        assert shop.money(unique) == (PRICE, 0)

    async def test_a_success_that_never_was_moves_nothing(
        self, web: httpx.Client, shop: StripeWorld, unique: str
    ) -> None:
        """Signed or not: what the event says is only a hint."""
        await ordered(declined(unique))
        (entry,) = shop.ledger(unique)
        send_event(web, "evt_1", "payment_intent.succeeded", about_payment(entry["id"], unique))
        send_event(web, "evt_2", "payment_intent.succeeded", about_payment("pi_never_there", unique))
        await handle_events()
        assert shop.money(unique) == (0, 0)
        assert (done(shop, "evt_1"), done(shop, "evt_2")) == ("in order", None)
        assert "Not Found" in shop.sql("SELECT error FROM payment_event WHERE id = 'evt_2'")[0][0], (
            "it is looked for again"
        )

    async def test_a_charge_without_an_order_is_for_a_person(
        self, web: httpx.Client, shop: StripeWorld, unique: str
    ) -> None:
        """As reconciliation judges it: it bears our mark, and there is no such order (any more)."""
        await _pay(unique, confirm=True)
        (entry,) = shop.ledger(unique)
        send_event(web, "evt_1", "payment_intent.succeeded", about_payment(entry["id"], unique))
        await handle_events()
        assert shop.money(unique) == (PRICE, 0)
        assert done(shop, "evt_1") == "charged without order: needs a person"

    async def test_a_foreign_payment_in_the_account_is_not_changed(
        self, web: httpx.Client, shop: StripeWorld
    ) -> None:
        made = shop.stripe.post("/v1/payment_intents", amount="500", currency="usd")["id"]
        send_event(web, "evt_1", "payment_intent.succeeded", about_payment(made, None))
        await handle_events()
        assert (done(shop, "evt_1") or "").startswith("not this installation's payment")


class TestRefundsMadeInTheDashboard:
    async def test_an_order_that_needs_attention_finds_its_refund(
        self, web: httpx.Client, shop: StripeWorld, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def refuse(*_: Any, **__: Any) -> Any:
            raise PaymentGatewayError("refund_refused", "not now", retryable=False)

        with monkeypatch.context() as while_it_refuses:
            while_it_refuses.setattr("shop.payments.stripe.gateway.StripeGateway.refund", refuse)
            await ordered(paid_by("pm_card_visa", an_order(unique, country="AQ")))
            assert ended(unique).outcome is Outcome.NEEDS_ATTENTION
            (entry,) = shop.ledger(unique)
            # held by a person
            shop.sql("UPDATE attention SET next_retry_at = NULL WHERE order_id = :id", id=unique)
            shop.stripe.post("/v1/refunds", payment_intent=entry["id"])
            send_event(web, "evt_1", "charge.refunded", about_charge(entry["id"], unique))
            await handle_events()

        assert shop.money(unique) == (PRICE, PRICE)
        assert (ended(unique).outcome, ended(unique).amount_refunded, ended(unique).amount_at_risk) == (
            Outcome.COMPENSATED,
            PRICE,
            0,
        )
        assert shop.sql("SELECT action, started_by, reference FROM desk_entry") == [
            ("retry_now", "payment event evt_1", "evt_1")
        ]
        assert read_queue_sync().cases == []
        shop.assert_books_balance()

    async def test_what_is_held_is_not_paid_twice(
        self, web: httpx.Client, shop: StripeWorld, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A part came back in the dashboard; a person pays the rest in another way."""
        refund = "shop.payments.stripe.gateway.StripeGateway.refund"

        async def refuse(*_: Any, **__: Any) -> Any:
            raise PaymentGatewayError("refund_refused", "not now", retryable=False)

        with monkeypatch.context() as while_it_refuses:
            while_it_refuses.setattr(refund, refuse)
            await ordered(paid_by("pm_card_visa", an_order(unique, country="AQ")))
        (entry,) = shop.ledger(unique)
        shop.sql("UPDATE attention SET next_retry_at = NULL WHERE order_id = :id", id=unique)
        shop.stripe.post("/v1/refunds", payment_intent=entry["id"], amount="1000")
        send_event(web, "evt_1", "charge.refunded", about_charge(entry["id"], unique))
        await handle_events()
        assert shop.money(unique) == (PRICE, 10)
        assert ended(unique).outcome is Outcome.NEEDS_ATTENTION
        assert done(shop, "evt_1") == "refund unknown to us: needs a person"

    async def test_a_refund_that_fails_days_later_goes_to_review(
        self, web: httpx.Client, shop: StripeWorld, unique: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await ordered(paid_by("pm_card_visa", an_order(unique, country="AQ")))
        assert (ended(unique).outcome, shop.money(unique)) == (Outcome.COMPENSATED, (PRICE, PRICE))
        (entry,) = shop.ledger(unique)
        asked, found = StripeGateway.get, StripeGateway.find

        async def get(self: StripeGateway, payment_id: str) -> Payment:
            return replace(await asked(self, payment_id), refunds=(), amount_refunded=Decimal(0))

        async def find(
            self: StripeGateway, order_id: str, *, installation: str | None = None
        ) -> list[Payment]:
            payments = await found(self, order_id, installation=installation)
            return [replace(payment, refunds=(), amount_refunded=Decimal(0)) for payment in payments]

        monkeypatch.setattr(StripeGateway, "get", get)
        monkeypatch.setattr(StripeGateway, "find", find)
        refund = {
            "id": "re_1",
            "object": "refund",
            "status": "failed",
            "payment_intent": entry["id"],
            "amount": 99_999,
            "currency": "usd",
        }
        send_event(web, "evt_1", "refund.failed", refund)
        await handle_events()
        assert done(shop, "evt_1") == "refund unknown to gateway: the order is now under manual review"
        assert (ended(unique).outcome, ended(unique).amount_at_risk) == (Outcome.NEEDS_ATTENTION, PRICE)
        (case,) = read_queue_sync().cases
        assert (case.order_id, case.amount_at_risk, case.next_retry_at) == (unique, PRICE, None)
        assert shop.money(unique) == (PRICE, PRICE), "nothing is sent a second time before a person says so"

    async def test_a_refund_of_a_completed_order_is_for_a_person(
        self, web: httpx.Client, shop: StripeWorld, unique: str
    ) -> None:
        await ordered(paid_by("pm_card_visa", an_order(unique)))
        (entry,) = shop.ledger(unique)
        shop.stripe.post("/v1/refunds", payment_intent=entry["id"], amount="5000")
        send_event(web, "evt_1", "charge.refunded", about_charge(entry["id"], unique))
        await handle_events()
        assert done(shop, "evt_1") == "refund unknown to us: needs a person"
        assert (ended(unique).outcome, ended(unique).amount_refunded) == (Outcome.COMPLETED, 0)

    async def test_our_own_refund_is_no_news(self, web: httpx.Client, shop: StripeWorld, unique: str) -> None:
        await ordered(paid_by("pm_card_visa", an_order(unique, country="AQ")))
        (entry,) = shop.ledger(unique)
        send_event(web, "evt_1", "charge.refunded", about_charge(entry["id"], unique))
        assert done(shop, "evt_1") == "in order", "at once, without a call to Stripe"


class TestDisputes:
    async def board(self) -> tuple[list[dict[str, Any]], str]:
        shown = await Artifact.aget(BOARD)
        assert shown is not None
        return json.loads(shown.data) if isinstance(shown.data, str) else list(
            shown.data
        ), shown.description or ""  # type: ignore[arg-type]

    @pytest.mark.usefixtures("prefect_api")
    async def test_a_dispute_is_under_review_until_it_is_closed(
        self, web: httpx.Client, shop: StripeWorld, unique: str
    ) -> None:
        """localstripe knows no disputes: what the event says, which is signed,
        is shown then. The events come in the wrong sequence, too."""
        await ordered(paid_by("pm_card_visa", an_order(unique)))
        (entry,) = shop.ledger(unique)
        dispute_data = about_dispute("du_1", entry["id"])
        assert send_event(web, "evt_1", "charge.dispute.created", dispute_data) == "stored"
        assert await handle_events() == {"handled": 1, "later": 0}

        rows, description = await self.board()
        (row,) = (row for row in rows if row["order"] == unique)
        assert (row["step"], row["at risk"]) == ("dispute", "999.99 USD")
        assert "fraudulent" in row["last error"]
        due = datetime.fromtimestamp(dispute_data["evidence_details"]["due_by"], UTC)
        assert f"{due:%Y-%m-%d %H:%M} UTC" in row["what to do"]
        assert "1 charge is disputed" in description
        assert ended(unique).outcome is Outcome.COMPLETED, "nothing is done about it by itself"
        assert "PLANTED" not in str(shop.sql("SELECT dispute FROM payment_event"))

        send_event(web, "evt_3", "charge.dispute.closed", about_dispute("du_1", entry["id"], status="won"))
        await handle_events()
        send_event(web, "evt_2", "charge.dispute.created", dispute_data)
        await handle_events()
        assert unique not in [row["order"] for row in (await self.board())[0]]
        assert shop.sql("SELECT status, closed_at IS NOT NULL FROM dispute") == [("won", True)]
        assert shop.sql("SELECT count(*) FROM payment_event WHERE handled_at IS NULL") == [(0,)]

    async def test_a_dispute_reported_after_its_end_is_not_opened(
        self, web: httpx.Client, shop: StripeWorld, unique: str
    ) -> None:
        await ordered(paid_by("pm_card_visa", an_order(unique)))
        (entry,) = shop.ledger(unique)
        send_event(web, "evt_2", "charge.dispute.closed", about_dispute("du_1", entry["id"], status="lost"))
        send_event(web, "evt_1", "charge.dispute.created", about_dispute("du_1", entry["id"]))
        await handle_events()
        assert shop.sql("SELECT status FROM dispute") == [("lost",)]
        assert read_queue_sync().disputes == []

    async def test_the_state_at_stripe_takes_precedence_over_the_event(
        self, shop: StripeWorld, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Here Stripe is down at first: the event is kept, and handled when it is back."""
        up = False

        def answer(request: Request) -> bytes:
            if not up:
                return http(b"", "503 Unavailable")
            if request.path == "/v1/disputes/du_9":
                return http(
                    {**about_dispute("du_9", "pi_9", status="under_review"), "amount": 4_200},
                    "200 OK",
                    "Content-Type: application/json",
                )
            return http(
                {"error": {"type": "invalid_request_error", "code": "resource_missing", "message": "none"}},
                "404 Not Found",
            )

        async with answering_stripe(answer) as server:
            monkeypatch.setenv("PAYMENT_GATEWAY_URL", server.url)
            settings.cache_clear()
            send_event(web, "evt_1", "charge.dispute.created", about_dispute("du_9", "pi_9"))
            assert await handle_events() == {"handled": 0, "later": 1}
            ((error, later),) = shop.sql("SELECT error, next_attempt_at > now() FROM payment_event")
            assert error
            assert later
            up = True
            shop.sql("UPDATE payment_event SET next_attempt_at = now()")
            assert await handle_events() == {"handled": 1, "later": 0}
        (dispute,) = read_queue_sync().disputes
        assert (dispute.amount, dispute.status, dispute.order_id) == (42, "under_review", None)
        settings.cache_clear()


class TestTheWholeWay:
    async def test_localstripe_sends_webhooks_and_an_order_resumes(
        self, web: httpx.Client, shop: StripeWorld, unique: str
    ) -> None:
        """A webhook that is signed and sent by a server that is not ours."""
        url = f"{str(web.base_url).rstrip('/')}/webhooks/stripe"
        hook = {"url": url, "secret": SECRET, "events": ["payment_intent.succeeded"]}
        httpx.post(f"{shop.stripe.url}/_config/webhooks/{unique}", json=hook, timeout=10).raise_for_status()
        try:
            await ordered(shop.asking(unique))
            shop.stripe.authenticate(shop.ledger(unique)[0]["id"], success=True)

            async def finished_waiting() -> bool:
                return is_due(shop, unique)

            await until(finished_waiting, 20, "the webhook to arrive")
            await process_pending_orders(consumer_seconds=0)
            assert ended(unique).outcome is Outcome.COMPLETED
        finally:  # it keeps them for ever
            hook["events"] = ["none"]
            httpx.post(f"{shop.stripe.url}/_config/webhooks/{unique}", json=hook, timeout=10)

    async def test_a_worker_that_died_with_an_event_leaves_it_to_the_next(
        self, web: httpx.Client, shop: StripeWorld, unique: str
    ) -> None:
        from shop.payments.events import inbox

        await ordered(declined(unique))
        await _pay(unique, confirm=True)
        late = next(entry for entry in shop.ledger(unique) if entry["status"] == "succeeded")
        send_event(web, "evt_1", "payment_intent.succeeded", about_payment(late["id"], unique))
        assert [each.id for each in await inbox.claim(most=5)] == ["evt_1"]  # and dies
        assert await handle_events() == {"handled": 0, "later": 0}, "not before a minute is over"
        shop.sql("UPDATE payment_event SET next_attempt_at = now()")
        assert await handle_events() == {"handled": 1, "later": 0}
        assert shop.money(unique) == (PRICE, PRICE)

    async def test_what_was_handled_long_ago_is_forgotten(
        self, web: httpx.Client, shop: StripeWorld, unique: str
    ) -> None:
        await ordered(paid_by("pm_card_visa", an_order(unique, country="AQ")))
        send_event(web, "evt_1", "charge.refunded", about_charge(shop.ledger(unique)[0]["id"], unique))
        shop.sql("UPDATE payment_event SET handled_at = :then", then=datetime.now(UTC) - timedelta(days=31))
        await handle_events()
        assert shop.sql("SELECT count(*) FROM payment_event") == [(0,)]
