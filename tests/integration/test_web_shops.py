"""Webhooks of Shopify and WooCommerce, over HTTP, signed as those shops sign them. Checked against
PostgreSQL, the gateway's ledger and the stock."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.cli import order_saga
from deployments.environment import environment
from deployments.trigger import submit_payloads
from flows.process_pending_orders import process_pending_orders
from saga import claims
from saga.database import transaction
from saga.finish import postpone
from saga.lease import lease
from shop.orders.formats.known import map_order
from shop.orders.outcomes import Outcome
from shop.orders.store import ORDERS
from shop.payments.recording import read_incoming, record_all_sync
from shop.review import shop_updates
from shop.review.address import change_address
from shop.review.cancel import ask_to_cancel
from shop.review.errors import OrderHeld
from shop.review.shop_updates import MAY_BE_REFUNDED, take
from shop.settings import settings
from tests.integration.web import KEY, served
from tests.integration.world import World
from tests.unit.test_shop_formats import of
from tests.waiting import until

SECRETS = {"SHOPIFY": "shpss_of_this_test", "WOOCOMMERCE": "secret of the second shop"}
OLD = "secret_before_rotation"


@pytest.fixture
def shop(saga: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """Runs are started by the tests themselves, not by the web app."""
    for name, secret in SECRETS.items():
        monkeypatch.setenv(f"{name}_WEBHOOK_SECRET", f"{secret},{OLD}")
    monkeypatch.setenv("ORDERS_API_KEY", KEY)
    monkeypatch.setattr("deployments.web.app.wake_pending_lane", lambda: None)
    settings.cache_clear()
    for product in ("82804GM", "12437", "13681", "18767"):
        saga.receive(product, 10, name="Of another shop system")
    return saga


@pytest.fixture
def web(shop: World) -> Iterator[httpx.Client]:
    with served() as client:
        client.headers.pop("Authorization")
        yield client


Send = Callable[..., dict[str, Any]]


def signature(body: bytes, secret: str) -> str:
    return base64.b64encode(hmac.new(secret.encode(), body, hashlib.sha256).digest()).decode()


def plain(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else str(value)


@pytest.fixture
def shopify(web: httpx.Client) -> Send:
    def send(order: dict[str, Any], topic: str = "orders/paid", secret: str = SECRETS["SHOPIFY"]) -> Any:
        body = json.dumps(order, default=plain).encode()
        headers = {
            "Content-Type": "application/json",
            "X-Shopify-Topic": topic,
            "X-Shopify-Shop-Domain": "first.myshopify.example",
            "X-Shopify-Hmac-Sha256": signature(body, secret),
        }
        answer = web.post("/orders/shopify", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return send


@pytest.fixture
def woo(web: httpx.Client) -> Send:
    def send(order: dict[str, Any], topic: str = "order.updated") -> Any:
        body = json.dumps(order, default=plain).encode()
        headers = {
            "Content-Type": "application/json",
            "X-WC-Webhook-Topic": topic,
            "X-WC-Webhook-Source": "https://shop.example/",
            "X-WC-Webhook-Signature": signature(body, SECRETS["WOOCOMMERCE"]),
        }
        answer = web.post("/orders/woocommerce", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    return send


def paid() -> dict[str, Any]:
    """A paid order of two pieces."""
    return of("shopify", "taxes_included_aud")


ORDER = "shopify-7024924328248"
SEEN_BY_A_PERSON = {Outcome.REJECTED, Outcome.NEEDS_ATTENTION}


def stored(shop: World) -> list[str]:
    return [row[0] for row in shop.sql("SELECT id FROM customer_order ORDER BY id")]


def entries(shop: World, order_id: str) -> list[tuple[str, str, str]]:
    rows = shop.sql(
        'SELECT action, "by", reason FROM desk_entry WHERE order_id = :id ORDER BY id', id=order_id
    )
    return [tuple(row) for row in rows]


class TestShopify:
    async def test_a_received_transfer_resumes_its_order(self, shop: World, shopify: Send) -> None:
        unpaid = {"financial_status": "pending", "total_outstanding": paid()["total_price"]}
        pending = {**paid(), **unpaid, "payment_gateway_names": ["Bank Deposit"]}
        assert shopify(pending, "orders/create")["status"] == "accepted"
        await process_pending_orders(consumer_seconds=0)
        assert shop.order(ORDER).outcome is None
        assert shop.order(ORDER).waits_for == "payment_awaited"
        assert shop.shipments(ORDER) == 0
        came = {**paid(), "payment_gateway_names": ["Bank Deposit"]}
        assert shopify(came, "orders/paid")["status"] == "updated"
        assert shopify(came, "orders/paid")["status"] in {"updated", "known"}
        await process_pending_orders(consumer_seconds=0)
        assert shop.order(ORDER).outcome == Outcome.COMPLETED
        assert shop.shipments(ORDER) == 1
        assert shop.ledger(ORDER) == []
        received = shop.sql(
            "SELECT sum(amount), count(*) FROM received_payment WHERE order_id = :id", id=ORDER
        )
        assert received == [(Decimal(paid()["total_price"]), 1)]

    async def test_a_paid_order_is_shipped_and_not_charged(self, shop: World, shopify: Send) -> None:
        taken = shopify(paid(), "orders/create")
        assert (taken["status"], taken["order_id"], taken["reasons"]) == ("accepted", ORDER, [])
        await process_pending_orders(consumer_seconds=0)
        assert shop.order(ORDER).outcome == Outcome.COMPLETED
        assert (shop.stock("82804GM"), shop.money(ORDER)) == ((8, 0), (0, 0))

    async def test_replays_and_other_topics_change_nothing(self, shop: World, shopify: Send) -> None:
        first = shopify(paid(), "orders/create")
        again = [shopify(paid(), topic) for topic in ("orders/create", "orders/paid", "orders/updated")]
        later = shopify(paid() | {"updated_at": "2026-02-05T10:00:00+11:00", "tags": "vip"}, "orders/updated")
        assert first["status"] == "accepted"
        assert [each["status"] for each in (*again, later)] == ["known"] * 4
        await process_pending_orders(consumer_seconds=0)
        assert shopify(paid())["outcome"] == Outcome.COMPLETED
        assert shop.stock("82804GM") == (8, 0)
        assert entries(shop, ORDER) == []

    def test_an_unpaid_order_waits_for_its_payment(self, shop: World, shopify: Send) -> None:
        for status in ("pending", "authorized", "partially_paid"):
            taken = shopify(
                paid() | {"financial_status": status, "total_outstanding": "90.16"}, "orders/create"
            )
            assert (taken["status"], stored(shop)) == ("waiting", [])
        assert shopify(paid(), "orders/paid")["status"] == "accepted"

    async def test_a_rejected_order_is_stored_with_its_reason(self, shop: World, shopify: Send) -> None:
        order = paid() | {"returns": [{"id": 1}], "environment_fee": "1.00"}
        taken = shopify(order)
        assert taken["status"] == "rejected"
        assert len(taken["reasons"]) == 2
        await process_pending_orders(consumer_seconds=0)
        assert shop.order(ORDER).outcome in SEEN_BY_A_PERSON
        assert {reason.partition(":")[0] for reason in shop.order(ORDER).reasons} >= {
            "returns",
            "environment_fee",
        }
        assert (shop.stock("82804GM"), shop.money(ORDER)) == ((10, 0), (0, 0))
        assert shopify(order)["status"] == "known"
        corrected = paid() | {"updated_at": "2026-02-05T10:00:00+11:00", "returns": []}
        assert sorted(shopify(corrected)["differs"]) == [
            "environment_fee: rejected here, acceptable now in the shop",
            "returns: rejected here, acceptable now in the shop",
        ]
        assert shop.stock("82804GM") == (10, 0)

    async def test_a_cancelled_order_is_compensated(self, shop: World, shopify: Send) -> None:
        order = of("shopify", "cash_on_delivery_eur")
        order["line_items"][0]["sku"] = "82804GM"
        order_id = shopify(order, "orders/create")["order_id"]
        order |= {"cancelled_at": "2026-02-05T10:00:00+11:00", "cancel_reason": "customer"}
        assert [shopify(order, "orders/cancelled")["status"] for _ in range(2)] == ["cancelled"] * 2
        await process_pending_orders(consumer_seconds=0)
        assert shop.order(order_id).outcome == Outcome.COMPENSATED
        assert MAY_BE_REFUNDED in entries(shop, order_id)[0][2]
        assert shop.stock("82804GM") == (10, 0)
        assert [(action, by) for action, by, _ in entries(shop, order_id)] == [
            ("cancel", "Shopify first.myshopify.example")
        ]

    async def test_a_message_that_a_cancellation_has_overtaken_ships_nothing(
        self, shop: World, shopify: Send
    ) -> None:
        shopify(paid() | {"cancelled_at": "2026-02-05T10:00:00+11:00"}, "orders/cancelled")
        shopify(paid(), "orders/create")
        await process_pending_orders(consumer_seconds=0)
        assert shop.order(ORDER).outcome in SEEN_BY_A_PERSON
        assert shop.stock("82804GM") == (10, 0)

    def test_a_cancelled_unpaid_order_is_not_stored(self, shop: World, shopify: Send) -> None:
        taken = shopify(of("shopify", "test_notification_usd"), "orders/create")
        assert (taken["status"], stored(shop)) == ("cancelled", [])

    def test_a_change_is_recorded_once_for_a_person_to_see(self, shop: World, shopify: Send) -> None:
        shopify(paid())
        order = paid() | {"updated_at": "2026-02-05T10:00:00+11:00"}
        order |= dict.fromkeys(("total_price", "current_total_price"), "45.08")
        order |= dict.fromkeys(("total_tax", "current_total_tax"), "4.10")
        order["line_items"][0] |= {"quantity": 1, "current_quantity": 1, "fulfillable_quantity": 1}
        order["line_items"][0]["tax_lines"][0]["price"] = "4.10"
        before = shop.sql("SELECT content FROM customer_order")
        taken = [shopify(order, topic) for topic in ("orders/edited", "orders/updated")]
        assert [each["status"] for each in taken] == ["changed"] * 2
        assert {each.partition(":")[0] for each in taken[0]["differs"]} == {
            "total_amount",
            "items[0].quantity",
            "items[0].tax_amount",
        }
        ((action, by, reason),) = entries(shop, ORDER)
        assert (action, by) == ("shop_update", "Shopify first.myshopify.example")
        assert "90.16" in reason
        assert "45.08" in reason
        assert shop.sql("SELECT content FROM customer_order") == before

    def test_an_older_message_is_no_change(self, shop: World, shopify: Send) -> None:
        shopify(paid())
        older = paid() | {"updated_at": "2024-01-01T00:00:00+00:00", "email": "old@example.com"}
        assert shopify(older, "orders/updated")["status"] == "known"
        assert entries(shop, ORDER) == []

    async def test_a_fulfilment_in_the_shop_after_ours_is_no_change(self, shop: World, shopify: Send) -> None:
        shopify(paid())
        await process_pending_orders(consumer_seconds=0)
        order = paid() | {"fulfillment_status": "fulfilled", "updated_at": "2026-02-06T10:00:00+11:00"}
        order["line_items"][0] |= {"fulfillment_status": "fulfilled", "fulfillable_quantity": 0}
        order["fulfillments"] = [{"id": 1, "status": "success"}]
        assert shopify(order, "orders/updated")["status"] == "known"
        order["updated_at"] = "2026-02-07T10:00:00+11:00"
        order["refunds"] = [
            {"transactions": [{"kind": "refund", "status": "success", "amount": "10.00"}]},
        ]
        assert [each.partition(":")[0] for each in shopify(order, "orders/updated")["differs"]] == ["refunds"]

    def moved(self, to: str, at: int) -> dict[str, Any]:
        """The paid order with another address, on that day."""
        order = paid() | {"updated_at": f"2026-02-{at:02}T10:00:00+11:00"}
        order["shipping_address"] |= {"address1": to}
        return order

    async def test_a_new_address_reaches_the_parcel(self, shop: World, shopify: Send) -> None:
        shopify(paid())
        assert shopify(self.moved("Second Road", 6), "orders/updated")["status"] == "updated"
        assert shopify(self.moved("First Road", 5), "orders/updated")["status"] == "known", "it is older"
        assert shopify(paid(), "orders/create")["status"] == "known", "it is the first one again"
        assert shop.order(ORDER).content["shipping_info"]["address"] == "Second Road"
        await process_pending_orders(consumer_seconds=0)
        assert shop.order(ORDER).outcome == Outcome.COMPLETED
        assert shop.order(ORDER).content["shipping_info"]["address"] == "Second Road"
        taken = shopify(self.moved("Third Road", 8), "orders/updated")
        assert taken["status"] == "changed"
        assert [each.partition(":")[0] for each in taken["differs"]] == ["shipping_info"]
        assert shop.order(ORDER).content["shipping_info"]["address"] == "Second Road"
        assert [action for action, _, _ in entries(shop, ORDER)] == ["change_address", "shop_update"]

    @pytest.mark.parametrize("newest", ["Third Road", None])
    async def test_the_newest_address_wins_while_a_worker_has_the_order(
        self, shop: World, shopify: Send, monkeypatch: pytest.MonkeyPatch, newest: str | None
    ) -> None:
        """The older message waits for the worker when the newer one comes, which goes back to the first
        address (None), or does not wait."""
        shopify(paid())
        address = newest or paid()["shipping_address"]["address1"]
        older = map_order("shopify", self.moved("Second Road", 6))
        newer = map_order("shopify", self.moved(address, 7))
        about = {"shop": "Shopify", "message": "webhook orders/updated"}
        async with lease(ORDERS) as mine:
            async with transaction() as tx:
                (order,) = await claims.claim(tx, ORDERS, mine, most=1, ids=[ORDER])
            monkeypatch.setattr(shop_updates, "_WAIT_SECONDS", 20)
            waiting = asyncio.create_task(take(older, **about))

            async def is_remembered() -> bool:
                return shop.sql("SELECT newest_at = '2026-02-06T10:00+11' FROM shop_message") == [(True,)]

            await until(is_remembered, 10, "the older message")
            monkeypatch.setattr(shop_updates, "_WAIT_SECONDS", 0)
            if newest is None:
                assert (await take(newer, **about)).status == "known"
            else:
                with pytest.raises(OrderHeld):
                    await take(newer, **about)
            await postpone([order], seconds=0)
        assert (await waiting).status == "known"
        assert newest is None or (await take(newer, **about)).status == "updated"
        assert shop.order(ORDER).content["shipping_info"]["address"] == address
        assert len(entries(shop, ORDER)) == (newest is not None)

    async def test_an_address_that_a_person_has_changed_stays(self, shop: World, shopify: Send) -> None:
        shopify(paid())
        await change_address(ORDER, {"address": "By Hand 1"}, changed_by="ann", partly=True)
        later = paid() | {"updated_at": "2026-02-06T10:00:00+11:00", "tags": "vip"}
        assert shopify(later, "orders/updated")["status"] == "known"
        assert shopify(self.moved("Second Road", 7), "orders/updated")["status"] == "changed"
        assert shop.order(ORDER).content["shipping_info"]["address"] == "By Hand 1"

    def test_an_address_and_other_changes_are_distinguished(self, shop: World, shopify: Send) -> None:
        shopify(paid())
        order = self.moved("Second Road", 6) | {"email": "else@example.com"}
        taken = [shopify(order, "orders/updated") for _ in range(2)]
        assert [each["differs"] for each in taken] == [
            ["customer_email: an address here, another one in the shop"]
        ] * 2
        assert shop.order(ORDER).content["shipping_info"]["address"] == "Second Road"
        assert [action for action, _, _ in entries(shop, ORDER)] == ["change_address", "shop_update"]

    def test_an_older_message_changes_nothing_also_after_one_without_a_change(
        self, shop: World, shopify: Send
    ) -> None:
        shopify(paid())
        latest = paid() | {"updated_at": "2026-02-08T10:00:00+11:00"}
        assert shopify(latest, "orders/updated")["status"] == "known"
        assert shopify(self.moved("Wrong Road", 7), "orders/updated")["status"] == "known"
        assert shop.order(ORDER).content["shipping_info"]["address"] != "Wrong Road"
        assert entries(shop, ORDER) == []

    @pytest.mark.parametrize("status", ["voided", "pending"])
    async def test_a_cancellation_before_the_creation_is_not_forgotten(
        self, shop: World, shopify: Send, status: str
    ) -> None:
        order = of("shopify", "cash_on_delivery_eur")
        gone = {"cancelled_at": "2030-01-01T00:00:00Z", "updated_at": "2030-01-01T00:00:00Z"}
        cancelled = shopify(order | gone | {"financial_status": status}, "orders/cancelled")
        assert cancelled["status"] in {"cancelled", "rejected"}
        assert shopify(order, "orders/create")["status"] in {"cancelled", "known"}
        await process_pending_orders(consumer_seconds=0)
        assert {shop.order(each).outcome for each in stored(shop)} <= SEEN_BY_A_PERSON

    async def test_a_deletion_of_a_shipped_order_returns_nothing(self, shop: World, shopify: Send) -> None:
        shopify(paid())
        await process_pending_orders(consumer_seconds=0)
        body = {"id": paid()["id"]}
        assert [shopify(body, "orders/delete")["status"] for _ in range(2)] == ["changed"] * 2
        await process_pending_orders(consumer_seconds=0)
        assert shop.order(ORDER).outcome == Outcome.COMPLETED
        assert shop.stock("82804GM") == (8, 0)
        assert [action for action, _, _ in entries(shop, ORDER)] == ["shop_update"]

    def test_another_message_under_the_topic_of_a_deletion_deletes_nothing(
        self, shop: World, shopify: Send
    ) -> None:
        shopify(paid())
        assert shopify(paid(), "orders/delete")["status"] == "ignored"
        assert shopify({"id": [1]}, "orders/delete")["status"] == "ignored"
        assert entries(shop, ORDER) == []

    async def test_a_refund_in_the_shop_stops_what_is_not_shipped(self, shop: World, shopify: Send) -> None:
        shopify(paid())
        later = {"financial_status": "refunded", "updated_at": "2026-02-06T10:00:00+11:00"}
        assert [shopify(paid() | later, "orders/updated")["status"] for _ in range(2)] == ["cancelled"] * 2
        await process_pending_orders(consumer_seconds=0)
        assert shop.order(ORDER).outcome not in {None, Outcome.COMPLETED}
        assert (shop.stock("82804GM"), shop.shipments(ORDER)) == ((10, 0), 0)
        assert shopify(paid() | later, "orders/updated")["status"] == "known"
        assert [action for action, _, _ in entries(shop, ORDER)] == ["cancel"]

    async def test_a_refund_in_the_shop_of_what_is_shipped_is_recorded(
        self, shop: World, shopify: Send
    ) -> None:
        shopify(paid())
        await process_pending_orders(consumer_seconds=0)
        later = {"financial_status": "refunded", "updated_at": "2026-02-06T10:00:00+11:00"}
        assert shopify(paid() | later, "orders/updated")["status"] == "changed"
        await process_pending_orders(consumer_seconds=0)
        assert shop.order(ORDER).outcome == Outcome.COMPLETED
        assert shop.stock("82804GM") == (8, 0)
        assert [action for action, _, _ in entries(shop, ORDER)] == ["shop_update"]

    def test_only_what_is_still_missing_is_recorded_and_once(self, shop: World, shopify: Send) -> None:
        total = Decimal(paid()["total_price"])
        pending = {"financial_status": "pending", "payment_gateway_names": ["Bank Deposit"]}
        shopify(paid() | pending | {"total_outstanding": str(total)}, "orders/create")
        part = {"order_id": ORDER, "amount": "40.00", "reference": "bank/17", "recorded_by": "ann"}
        record_all_sync([read_incoming(part)])
        for number in ("1", "2"):
            sale = {"id": number, "kind": "sale", "status": "success", "amount": str(total), "gateway": "x"}
            came = paid() | {"payment_gateway_names": ["Bank Deposit"], "transactions": [sale]}
            assert shopify(came, "orders/paid")["status"] == "updated"
        received = shop.sql(
            "SELECT amount FROM received_payment WHERE order_id = :id ORDER BY amount", id=ORDER
        )
        assert [row[0] for row in received] == [Decimal("40.00"), total - Decimal("40.00")]

    async def test_money_for_an_order_that_has_ended_is_recorded_and_seen(
        self, shop: World, shopify: Send
    ) -> None:
        total = paid()["total_price"]
        pending = {"financial_status": "pending", "payment_gateway_names": ["Bank Deposit"]}
        shopify(paid() | pending | {"total_outstanding": total}, "orders/create")
        await ask_to_cancel(ORDER, reason="the customer changed her mind", requested_by="ann")
        await process_pending_orders(consumer_seconds=0)
        assert shop.order(ORDER).outcome == Outcome.COMPENSATED
        came = paid() | {"payment_gateway_names": ["Bank Deposit"], "updated_at": "2026-02-09T10:00:00+11:00"}
        assert [shopify(came, "orders/paid")["status"] for _ in range(2)] == ["changed"] * 2
        received = shop.sql("SELECT amount FROM received_payment WHERE order_id = :id", id=ORDER)
        assert received == [(Decimal(total),)]
        actions = [action for action, _, _ in entries(shop, ORDER)]
        assert [each for each in actions if each in {"cancel", "shop_update"}] == ["cancel", "shop_update"]

    def test_topics_of_no_interest_are_answered(self, shop: World, shopify: Send) -> None:
        assert shopify({"id": 1}, "customers/redact")["status"] == "ignored"
        assert shopify({"id": 1}, "orders/delete")["status"] == "ignored"
        assert stored(shop) == []

    @pytest.mark.parametrize("secret", [OLD, SECRETS["SHOPIFY"]])
    def test_both_secrets_are_accepted_while_one_replaces_another(self, shopify: Send, secret: str) -> None:
        assert shopify(paid(), secret=secret)["status"] == "accepted"


class TestWooCommerce:
    async def test_an_order_is_shipped(self, shop: World, woo: Send) -> None:
        order = of("woocommerce", "cash_on_delivery_pen")
        assert [woo(order, topic)["status"] for topic in ("order.created", "order.updated")] == [
            "accepted",
            "known",
        ]
        await process_pending_orders(consumer_seconds=0)
        assert shop.order("woocommerce-17111").outcome == Outcome.COMPLETED
        assert shop.stock("12437") == (9, 0)

    async def test_a_deleted_order_is_cancelled(self, shop: World, woo: Send) -> None:
        woo(of("woocommerce", "cash_on_delivery_pen"), "order.created")
        assert woo({"id": 17111}, "order.deleted")["status"] == "cancelled"
        assert woo({"id": 99}, "order.deleted")["status"] == "ignored"
        await process_pending_orders(consumer_seconds=0)
        assert shop.order("woocommerce-17111").outcome == Outcome.COMPENSATED
        assert shop.stock("12437") == (10, 0)

    async def test_an_order_that_was_restored_is_seen(self, shop: World, woo: Send) -> None:
        order = of("woocommerce", "cash_on_delivery_pen")
        woo(order, "order.created")
        later = {"date_modified_gmt": "2024-06-06T10:00:00"}
        assert woo(order | later | {"status": "cancelled"})["status"] == "cancelled"
        assert woo(order)["status"] == "known", "it is older"
        await process_pending_orders(consumer_seconds=0)
        restored = order | {"date_modified_gmt": "2024-06-07T10:00:00"}
        taken = [woo(restored, topic) for topic in ("order.restored", "order.updated")]
        assert [each["differs"] for each in taken] == [["order: cancelled here, open again in the shop"]] * 2
        assert shop.order("woocommerce-17111").outcome == Outcome.COMPENSATED
        assert [action for action, _, _ in entries(shop, "woocommerce-17111")] == ["cancel", "shop_update"]

    def test_a_cancelled_unpaid_order_is_not_stored(self, shop: World, woo: Send) -> None:
        order = of("woocommerce", "pending_paypal_usd")
        assert [
            woo(order | {"status": status})["status"] for status in ("pending", "failed", "cancelled")
        ] == [
            "waiting",
            "waiting",
            "cancelled",
        ]
        assert stored(shop) == []

    @pytest.mark.parametrize("how", ["deleted", "trash"])
    async def test_what_is_tidied_up_after_it_was_shipped_is_not_returned(
        self, shop: World, woo: Send, how: str
    ) -> None:
        order = of("woocommerce", "cash_on_delivery_pen")
        woo(order, "order.created")
        await process_pending_orders(consumer_seconds=0)
        later = order | {"status": "trash", "date_modified_gmt": "2030-06-06T10:00:00"}
        taken = woo({"id": 17111}, "order.deleted") if how == "deleted" else woo(later)
        assert taken["status"] == "changed"
        await process_pending_orders(consumer_seconds=0)
        assert shop.order("woocommerce-17111").outcome == Outcome.COMPLETED
        assert shop.stock("12437") == (9, 0)
        assert [action for action, _, _ in entries(shop, "woocommerce-17111")] == ["shop_update"]

    def test_a_deletion_before_the_creation_is_not_forgotten(self, shop: World, woo: Send) -> None:
        order = of("woocommerce", "cash_on_delivery_pen")
        assert woo({"id": 17111}, "order.deleted")["status"] == "ignored"
        assert woo(order, "order.created")["status"] == "cancelled"
        assert stored(shop) == []
        assert woo(order, "order.restored")["status"] == "accepted"

    def test_an_order_that_is_open_again_before_it_came_is_taken(self, shop: World, woo: Send) -> None:
        order = of("woocommerce", "stripe_paid_usd")
        unpaid = {"status": "cancelled", "date_paid": None, "date_paid_gmt": None, "transaction_id": ""}
        at = {"date_modified_gmt": "2030-06-06T10:00:00"}
        assert woo(order | unpaid | at)["status"] == "cancelled"
        assert woo(order)["status"] == "cancelled", "it is older"
        assert stored(shop) == []
        assert woo(order | {"date_modified_gmt": "2030-06-07T10:00:00"})["status"] == "accepted"

    def test_the_ping_of_a_new_webhook_is_answered(self, web: httpx.Client) -> None:
        answer = web.post("/orders/woocommerce", data={"webhook_id": "12"})
        assert (answer.status_code, answer.json()["status"]) == (200, "ignored")
        assert web.post("/orders/woocommerce", data={"webhook_id": "x"}).status_code == 401


class TestExports:
    def test_each_order_of_an_export_has_a_receipt(self, shop: World) -> None:
        receipts = submit_payloads(
            "shopify",
            [
                paid() | {"zodiac": "libra"},
                paid() | {"id": 2, "financial_status": "authorized"},
                paid() | {"id": 3, "cancelled_at": "2026-02-05T10:00:00+11:00"},
                {"order": paid() | {"id": 4, "energy_fee": "1.00"}},
                {"name": "#1"},
                "no order",
            ],
        )
        assert [(each.order_id, each.status) for each in receipts] == [
            (ORDER, "accepted"),
            ("shopify-2", "refused"),
            ("shopify-3", "refused"),
            ("shopify-4", "accepted"),
            (None, "refused"),
            (None, "refused"),
        ]
        assert receipts[0].ignored == ["zodiac"]
        assert [bool(each.reasons) for each in receipts] == [False, True, True, True, True, True]
        assert stored(shop) == ["shopify-4", ORDER]
        assert [each.status for each in submit_payloads("shopify", [paid() | {"zodiac": "leo"}])] == ["known"]

    @pytest.mark.parametrize(
        "written",
        [
            lambda orders: json.dumps({"orders": orders, "count": 2}),
            json.dumps,
            lambda orders: "\n".join(map(json.dumps, orders)),
        ],
        ids=["object", "list", "lines"],
    )
    def test_the_command_line_takes_every_kind_of_file(
        self, shop: World, tmp_path: Path, written: Callable[[Any], str]
    ) -> None:
        orders = [json.loads(json.dumps(paid() | {"id": number}, default=plain)) for number in (11, 12)]
        file = tmp_path / "orders.json"
        file.write_text(written(orders), encoding="utf-8")
        with environment({"PREFECT_API_URL": "http://127.0.0.1:1/api"}):
            assert order_saga(["submit", str(file), "--format", "shopify", "--no-wait"]) == 0
        assert stored(shop) == ["shopify-11", "shopify-12"]
        assert order_saga(["submit", str(file), "--format", "magento"]) == 2
        assert order_saga(["submit", str(file), "--format", "shopify", "--own-run"]) == 2


@pytest.mark.parametrize("path", ["/orders/shopify", "/orders/woocommerce"])
class TestSignatures:
    @pytest.mark.parametrize(
        "given", [None, "", "AAAA", "ä", "x" * 200], ids=["none", "empty", "short", "latin", "long"]
    )
    def test_nothing_is_stored_without_a_signature(
        self, shop: World, web: httpx.Client, path: str, given: str | None
    ) -> None:
        names = ("X-Shopify-Hmac-Sha256", "X-WC-Webhook-Signature")
        headers = {} if given is None else dict.fromkeys(names, given.encode())
        topics = {"X-Shopify-Topic": b"orders/paid", "X-WC-Webhook-Topic": b"order.created"}
        answer = web.post(path, content=json.dumps(paid(), default=plain), headers=headers | topics)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert stored(shop) == []

    def test_a_body_that_was_changed_is_refused(self, shop: World, web: httpx.Client, path: str) -> None:
        body = json.dumps(paid(), default=plain).encode()
        signed = {name: signature(body, OLD) for name in ("X-Shopify-Hmac-Sha256", "X-WC-Webhook-Signature")}
        assert web.post(path, content=body.replace(b"90.16", b"00.16"), headers=signed).status_code == 401
        assert web.post(path, content=b"{", headers=signed).status_code == 401
        signed = dict.fromkeys(signed, signature(b"{", OLD))
        assert web.post(path, content=b"{", headers=signed).status_code == 400

    def test_without_a_secret_the_shop_sends_it_again(
        self, web: httpx.Client, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in SECRETS:
            monkeypatch.delenv(f"{name}_WEBHOOK_SECRET")
        settings.cache_clear()
        assert web.post(path, content=b"{}").status_code == 503
