"""What customers hear of orders, in both lanes; and that a mail that cannot be sent is no order's matter."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from prefect.artifacts import Artifact

from deployments.environment import environment
from deployments.local.processes import free_port
from flows.attention_artifact import UNDELIVERED_KEY as KEY
from flows.cancel_order import cancel_order
from flows.housekeeping import housekeeping
from flows.process_order import process_order
from flows.process_pending_orders import process_pending_orders
from shop.notifications.kinds import Kind
from shop.notifications.mail import message_id
from shop.notifications.outbox import send_again
from shop.orders import intake
from shop.orders.outcomes import Outcome
from shop.settings import settings
from tests.crm_server import SECRET, crm_server
from tests.integration.world import World, an_order
from tests.mail_server import mail_server


async def through(lane: str, *orders: dict[str, Any]) -> None:
    if lane == "pending":
        intake.submit(list(orders))
        await process_pending_orders(consumer_seconds=0)
    else:
        for order in orders:
            await process_order(order, return_state=True)


@pytest.mark.parametrize("lane", ["process_order", "pending"])
async def test_every_end_has_its_notice(saga: World, unique: str, lane: str) -> None:
    orders = {
        "good": an_order(f"GOOD-{unique}"),
        "declined": an_order(f"DECLINED-{unique}", card="0000"),
        "short": an_order(f"SHORT-{unique}", product="OUT-OF-STOCK"),
        "digital": {**an_order(f"DIGITAL-{unique}"), "shipping_info": None},
        "unpaid": {**an_order(f"UNPAID-{unique}"), "payment_info": None},
        "unshippable": an_order(f"AQ-{unique}", country="AQ"),
        "invalid": an_order(f"INVALID-{unique}", total_amount="1.00"),
        "attention": an_order(f"STUCK-{unique}", card="0259", country="AQ"),
    }
    await through(lane, *orders.values())
    due = {
        "good": {"confirmation"},
        "declined": {"payment_failed"},
        "short": {"out_of_stock"},
        "digital": {"incomplete"},
        "unpaid": {"incomplete"},
        "unshippable": {"refund"},
        "invalid": set(),
        "attention": set(),
    }
    ids = {name: order["id"] for name, order in orders.items()}
    assert {name: saga.mail_kinds(order_id) for name, order_id in ids.items()} == due
    contacts = saga.sql("SELECT order_id, kind, customer_id FROM customer_interaction")
    assert Counter((row.order_id, row.kind) for row in contacts) == Counter(
        (ids[name], f"order_{kind}") for name, kinds in due.items() for kind in kinds
    )
    assert "was declined" in saga.mail(ids["declined"], "payment_failed")
    assert saga.money(ids["declined"]) == (0, 0), "nothing was charged, as the mail says"
    assert "without a delivery address" in saga.mail(ids["digital"], "incomplete")
    assert "without a means of payment" in saga.mail(ids["unpaid"], "incomplete")
    assert saga.money(ids["digital"]) == saga.money(ids["unpaid"]) == (0, 0)
    assert "OUT-OF-STOCK" in saga.mail(ids["short"], "out_of_stock")
    assert "999.99 USD" in saga.mail(ids["unshippable"], "refund")
    for _ in range(2):
        await through(lane, *orders.values())
    assert len(saga.mails()) == 6, "once, however often they are sent"


async def test_a_customer_who_cancelled_before_paying_gets_no_payment_failed_mail(
    saga: World, unique: str
) -> None:
    order = an_order(f"CANCEL-{unique}")
    intake.submit([order])
    await cancel_order(
        order["id"], reason="changed my mind", requested_by="ann", confirmed=True, return_state=True
    )
    assert saga.order(order["id"]).outcome == Outcome.COMPENSATED
    assert saga.mail_kinds(order["id"]) == set()


@pytest.mark.parametrize("lane", ["process_order", "pending"])
async def test_mails_and_webhooks_leave_for_the_outside(saga: World, unique: str, lane: str) -> None:
    orders = [an_order(f"OUT-{unique}-{i}") for i in range(2)]
    with mail_server() as server, crm_server() as crm:
        outside = {
            "SMTP_URL": f"smtp://{server.host}:{server.port}",
            "CRM_WEBHOOK_URL": crm.url,
            "CRM_WEBHOOK_SECRET": SECRET,
        }
        with environment(outside):
            await through(lane, *orders)
    assert Counter(server.ids) == Counter(
        message_id(order["id"], Kind.CONFIRMATION, settings(), saga.installation) for order in orders
    )
    assert sorted(message.body["data"]["order_id"] for message in crm.received) == [
        order["id"] for order in orders
    ]
    assert all(message.body["data"]["tracking_number"] for message in crm.received)
    assert saga.mails() == {}


@pytest.mark.parametrize("lane", ["process_order", "pending"])
async def test_an_unavailable_mail_server_and_crm_fail_no_order(saga: World, unique: str, lane: str) -> None:
    order, port = an_order(f"UNAVAILABLE-{unique}"), free_port()
    unreachable = {
        "SMTP_URL": f"smtp://127.0.0.1:{port}",
        "CRM_WEBHOOK_URL": f"http://127.0.0.1:{free_port()}",
        "CRM_WEBHOOK_SECRET": SECRET,
    }
    with environment(unreachable):
        await through(lane, order)
        assert saga.order(order["id"]).outcome == Outcome.COMPLETED
        saga.assert_books_balance()
        assert {row.sent_at for row in saga.sql("SELECT sent_at FROM outbox")} == {None}
    with (
        mail_server(port=port) as server,
        crm_server() as crm,
        environment({**unreachable, "CRM_WEBHOOK_URL": crm.url}),
    ):
        saga.sql("UPDATE outbox SET next_attempt_at = now()")
        await process_pending_orders(consumer_seconds=0)
    assert server.ids == [message_id(order["id"], Kind.CONFIRMATION, settings(), saga.installation)]
    assert len(crm.received) == 1


@pytest.mark.usefixtures("prefect_api")
async def test_a_refused_mail_is_shown_and_the_order_stays_completed(saga: World, unique: str) -> None:
    order = an_order(f"REFUSED-{unique}")
    with mail_server() as server, environment({"SMTP_URL": f"smtp://{server.host}:{server.port}"}):
        server.answer_recipient = lambda _: "550 5.1.1 john.doe@example.com: no such user"
        await through("process_order", order)
        assert saga.order(order["id"]).outcome == Outcome.COMPLETED
        await housekeeping()
        rows, description = await shown()
        assert [(row["order"], row["message"]) for row in rows] == [(order["id"], "confirmation")]
        assert "550 5.1.1" in rows[0]["error"]
        assert "john.doe" not in json.dumps(rows)
        assert "1 refused permanently" in description
        server.answer_recipient = lambda _: None
        await send_again(order["id"])
        await process_pending_orders(consumer_seconds=0)
        assert len(server.taken) == 1
        await housekeeping()
    assert (await shown())[0] == []


async def shown() -> tuple[list[dict[str, Any]], str]:
    artifact = await Artifact.aget(KEY)
    if artifact is None:
        return [], ""
    return (
        json.loads(artifact.data) if isinstance(artifact.data, str) else artifact.data
    ), artifact.description or ""
