"""Webhooks for the CRM, over HTTP: signed so that the specification's own library agrees,
and at least once."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import standardwebhooks

from deployments.environment import environment
from deployments.local.processes import free_port
from saga.database import transaction
from shop.notifications import outbox
from shop.notifications.kinds import Kind
from shop.notifications.notices import Notice, add_notices
from shop.notifications.outbox import read_undelivered, send_again
from shop.notifications.settings import webhook_key
from shop.runtime.installation import Installation, installation_id
from shop.runtime.installation import _known as installations
from shop.settings import Settings, settings
from tests.crm_server import SECRET, Crm, crm_server
from tests.integration.domain import Shop
from tests.integration.test_outbox import make_all_due, store

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
pytest_plugins = ["tests.integration.domain_fixtures"]


@pytest.fixture
def crm(shop: Shop) -> Iterator[Crm]:
    """A CRM that accepts everything unless a test changes that."""
    with (
        crm_server() as crm,
        environment({"CRM_WEBHOOK_URL": crm.url, "CRM_WEBHOOK_SECRET": SECRET, "CRM_TIMEOUT_SECONDS": "5"}),
    ):
        yield crm


async def refunded(*order_ids: str) -> None:
    async with transaction() as tx:
        money = {"amount": "10.00", "currency": "USD"}
        await add_notices(
            tx, [Notice(i, "CUST-123", Kind.REFUND, {**money, "why": "returned"}, money) for i in order_ids]
        )


async def hooks(shop: Shop) -> list[Any]:
    return await shop.rows(
        "SELECT *, next_attempt_at - now() AS pause FROM outbox WHERE kind LIKE 'crm_%' ORDER BY order_id"
    )


async def test_a_message_arrives_and_is_signed(shop: Shop, crm: Crm) -> None:
    await store(shop, "A")
    await refunded("A")
    assert await outbox.deliver() == (2, 0)
    (message,) = crm.received
    assert crm.wrong == []
    due = await shop.value("SELECT created_at FROM outbox WHERE kind = 'crm_refund'")
    assert datetime.fromisoformat(message.body["timestamp"]) == due
    assert (message.body["type"], message.body["data"]) == (
        "order.refunded",
        {
            "order_id": "A",
            "installation": await installation_id(),
            "customer_id": "CUST-123",
            "contact": "order_refund",
            "amount": "10.00",
            "currency": "USD",
        },
    )
    assert message.headers["content-type"] == "application/json"
    (contact,) = await shop.rows("SELECT * FROM customer_interaction")
    assert (contact.order_id, contact.customer_id, contact.kind) == ("A", "CUST-123", "order_refund")


async def test_without_a_crm_there_is_our_own_row(shop: Shop) -> None:
    await store(shop, "A")
    await refunded("A")
    assert [row.kind for row in await shop.rows("SELECT kind FROM outbox")] == ["refund"]
    assert await shop.count("customer_interaction") == 1


async def test_row_mail_and_webhook_are_one_transaction(shop: Shop, crm: Crm) -> None:
    await store(shop, "A")

    async def notify_and_fail() -> None:
        async with transaction() as tx:
            await add_notices(tx, [Notice("A", "CUST-123", Kind.PAYMENT_FAILED, {"why": "payment_declined"})])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await notify_and_fail()
    assert (await shop.count("outbox"), await shop.count("customer_interaction")) == (0, 0)


async def test_notifying_again_sends_once(shop: Shop, crm: Crm) -> None:
    await store(shop, "A")
    for _ in range(3):
        await refunded("A")
        await outbox.deliver()
        await make_all_due(shop)
    assert len(crm.received) == await shop.count("customer_interaction") == 1


async def test_one_whose_answer_was_lost_comes_again_with_the_same_id(shop: Shop, crm: Crm) -> None:
    await store(shop, "A")
    await refunded("A")
    crm.may_answer.clear()
    with environment({"CRM_TIMEOUT_SECONDS": "1"}):
        assert await outbox.deliver() == (1, 1)
    crm.may_answer.set()
    assert [row.error for row in await hooks(shop)] == [
        "no answer from the CRM (TimeoutError)"
    ] or "ReadTimeout" in (await hooks(shop))[0].error
    await make_all_due(shop)
    assert await outbox.deliver() == (1, 0)
    first, second = crm.received
    assert (first.id, first.body) == (second.id, second.body)


async def test_ids_differ_by_order_and_kind(shop: Shop, crm: Crm) -> None:
    await store(shop, "A", "B")
    await refunded("A", "B")
    async with transaction() as tx:
        await add_notices(
            tx,
            [
                Notice(
                    "A",
                    "CUST-123",
                    Kind.PAYMENT_FAILED,
                    {"why": "payment_declined"},
                    {"why": "payment_declined"},
                )
            ],
        )
    await outbox.deliver()
    assert len({message.id for message in crm.received}) == 3
    assert not [message.id for message in crm.received if "." in message.id], (
        "the full stop separates what is signed"
    )


async def test_two_shops_with_the_same_order_are_two_messages(
    shop: Shop, crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both post to one CRM, which drops a second message with the same id."""
    await store(shop, "A")
    for there in (Installation("0123456789abcdef", LONG_AGO), Installation("fedcba9876543210", LONG_AGO)):
        monkeypatch.setitem(installations, settings().database_url, there)
        await shop.rows("DELETE FROM outbox")
        await shop.rows("DELETE FROM customer_interaction")
        await refunded("A")
        await outbox.deliver()
    assert len({message.id for message in crm.received}) == 2
    assert [message.body["data"]["installation"] for message in crm.received] == [
        "0123456789abcdef",
        "fedcba9876543210",
    ]
    assert {message.body["data"]["order_id"] for message in crm.received} == {"A"}


async def test_what_an_earlier_version_made_due_keeps_its_id(
    shop: Shop, crm: Crm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer may have been lost: the CRM knows it by that id."""
    await store(shop, "A")
    await refunded("A")
    monkeypatch.setitem(
        installations,
        settings().database_url,
        Installation("0123456789abcdef", datetime.now(UTC) + timedelta(hours=1)),
    )
    await outbox.deliver()
    (message,) = crm.received
    assert message.id == "refund_" + hashlib.sha256(b"refund\nA").hexdigest()[:32]


@pytest.mark.parametrize("status", [500, 503, 400, 401, 404, 302, 308])
async def test_any_other_answer_is_tried_again_with_growing_pauses(shop: Shop, crm: Crm, status: int) -> None:
    """A redirection too: the server there does not have the secret."""
    crm.answer = lambda _: (status, {"location": crm.url})
    await store(shop, "A")
    await refunded("A")
    await outbox.deliver()
    pauses = []
    for _ in range(3):
        (row,) = await hooks(shop)
        assert (row.sent_at, row.refused_at, row.error) == (None, None, f"the CRM answered {status}")
        pauses.append(row.pause.total_seconds())
        await make_all_due(shop)
        await outbox.deliver()
    assert crm.requests == 4
    assert 25 < pauses[0] < pauses[1] < pauses[2]
    crm.answer = lambda _: (204, {})
    await make_all_due(shop)
    assert await outbox.deliver() == (1, 0)


async def test_gone_stops(shop: Shop, crm: Crm) -> None:
    crm.answer = lambda _: (410, {})
    await store(shop, "A")
    await refunded("A")
    assert await outbox.deliver() == (1, 1)
    await make_all_due(shop)
    assert not await outbox.is_due()
    (left,) = await read_undelivered()
    assert (left.order_id, left.kind, left.refused) == ("A", "crm_refund", True)
    assert "CRM_WEBHOOK_URL" in left.error
    crm.answer = lambda _: (200, {})
    assert await send_again() == 1
    assert await outbox.deliver() == (1, 0)


@pytest.mark.parametrize("as_date", [False, True])
async def test_a_pause_that_is_asked_for_is_made(shop: Shop, crm: Crm, as_date: bool) -> None:
    """By all connections: no other message is sent to it either."""
    after = format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True) if as_date else "600"
    crm.answer = lambda _: (429, {"retry-after": after})
    ids = [f"{i:02}" for i in range(30)]
    await store(shop, *ids)
    await refunded(*ids)
    assert await outbox.deliver(most=100) == (30, 30)
    assert crm.requests <= 4
    assert all(580 < row.pause.total_seconds() <= 600 for row in await hooks(shop))


@pytest.mark.parametrize("nonsense", ["soon", "-5", "1e9", "Thu, 99 Foo 2031", ""])
async def test_a_pause_that_makes_no_sense_is_not(shop: Shop, crm: Crm, nonsense: str) -> None:
    crm.answer = lambda _: (503, {"retry-after": nonsense})
    await store(shop, "A")
    await refunded("A")
    await outbox.deliver()
    (row,) = await hooks(shop)
    assert 25 < row.pause.total_seconds() <= 30


async def test_an_unavailable_crm_delays_no_mail(shop: Shop) -> None:
    with environment({"CRM_WEBHOOK_URL": f"http://127.0.0.1:{free_port()}/", "CRM_WEBHOOK_SECRET": SECRET}):
        await store(shop, "A", "B")
        await refunded("A", "B")
        assert await outbox.deliver() == (2, 2)
        assert {row.error for row in await hooks(shop)} == {
            "the CRM (CRM_WEBHOOK_URL) cannot be reached (ConnectError)"
        }


async def test_a_slow_crm_is_not_waited_for_without_end(shop: Shop, crm: Crm) -> None:
    crm.may_answer.clear()
    ids = [f"{i:02}" for i in range(8)]
    await store(shop, *ids)
    await refunded(*ids)
    with environment({"CRM_TIMEOUT_SECONDS": "0.2"}):
        begin = time.monotonic()
        assert await outbox.deliver(most=100) == (8, 8)
        assert time.monotonic() - begin < 20


async def test_nothing_of_the_secret_or_the_card_is_kept_or_sent(shop: Shop, crm: Crm) -> None:
    await store(shop, "A")
    await refunded("A")
    await outbox.deliver()
    (message,) = crm.received
    for secret in ("1234", SECRET, "john.doe@example.com", "123 Main St"):
        assert secret not in str(message.body)
    assert SECRET not in str(await shop.rows("SELECT * FROM outbox"))


async def test_those_who_deliver_at_the_same_time_send_each_once(shop: Shop, crm: Crm) -> None:
    ids = [f"{i:02}" for i in range(30)]
    await store(shop, *ids)
    await refunded(*ids)
    await asyncio.gather(*(outbox.deliver(most=7) for _ in range(12)))
    assert sorted(message.body["data"]["order_id"] for message in crm.received) == ids


class TestSettings:
    def test_the_key_is_the_specification_s(self) -> None:
        """Its library signs the same."""
        at = datetime(2031, 2, 3, tzinfo=UTC)
        from shop.notifications.crm import Webhook, signed

        mine = signed(Webhook("msg_1", b'{"a":"\xc3\xa4"}'), webhook_key(SECRET), int(at.timestamp()))
        assert mine["webhook-signature"] == standardwebhooks.Webhook(SECRET).sign("msg_1", at, '{"a":"ä"}')

    @pytest.mark.parametrize(
        "wrong",
        [
            "",
            "whsec_",
            "whsec_short",
            "plain-text",
            "whsec_" + "A" * 200,
            "whsec_!!!!" + "A" * 32,
            SECRET[6:],
        ],
    )
    def test_a_secret_that_is_none(self, wrong: str) -> None:
        with pytest.raises(ValueError, match="CRM_WEBHOOK_SECRET"):
            Settings(_env_file=None, CRM_WEBHOOK_URL="https://crm.example", CRM_WEBHOOK_SECRET=wrong)

    def test_a_url_needs_a_secret_and_a_secret_no_url(self) -> None:
        with pytest.raises(ValueError, match="needs CRM_WEBHOOK_SECRET"):
            Settings(_env_file=None, CRM_WEBHOOK_URL="https://crm.example")
        assert SECRET not in repr(Settings(_env_file=None, CRM_WEBHOOK_SECRET=SECRET))

    @pytest.mark.parametrize("wrong", ["crm.example", "ftp://crm.example", "https://", "javascript:x"])
    def test_a_url_that_is_none(self, wrong: str) -> None:
        with pytest.raises(ValueError, match="CRM_WEBHOOK_URL"):
            Settings(_env_file=None, CRM_WEBHOOK_URL=wrong, CRM_WEBHOOK_SECRET=SECRET)
