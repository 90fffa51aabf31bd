"""Mails: one for one order however often it is sent,
none before its transaction is committed, and sent until it is sent."""

from __future__ import annotations

import asyncio
import email
import mailbox
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from saga.database import close_engine, sync_engine, transaction
from shop.confirmation.writer import template_confirmation
from shop.notifications import outbox
from shop.notifications.kinds import Kind
from shop.notifications.maildir import Maildir
from shop.notifications.message import Mail
from shop.notifications.notices import notify
from shop.notifications.outbox import Message
from shop.orders.order import Order
from shop.settings import settings
from shop.shipping import carriers
from tests.integration.domain import Shop, an_order
from tests.integration.world import text_of
from tests.journalled import end

pytest_plugins = ["tests.integration.domain_fixtures"]

TRACKING = "CA000000010US"


def confirmation(order_id: str) -> Message:
    return Message(order_id, Kind.CONFIRMATION, {"tracking_number": TRACKING})


async def store(shop: Shop, *order_ids: str) -> None:
    """Orders whose confirmation is written: its texts are in the journal."""
    await shop.store(*map(an_order, order_ids))
    for order_id in order_ids:
        await shop.rows(
            "INSERT INTO order_step (order_id, step, status, result) "
            "VALUES (:id, 'generate_confirmation', 'done', CAST(:texts AS jsonb))",
            id=order_id,
            texts=template_confirmation(
                Order.model_validate(an_order(order_id)), settings()
            ).model_dump_json(),
        )


def refund(order_id: str, amount: str = "10.00") -> Message:
    return Message(order_id, Kind.REFUND, {"amount": amount, "currency": "USD"})


async def put(messages: Iterable[Message]) -> None:
    async with transaction() as tx:
        await outbox.put(tx, messages)


def mails() -> dict[str, EmailMessage]:
    """File name to mail, as a mail program reads the Maildir."""
    if not settings().mail_dir.exists():
        return {}
    maildir = mailbox.Maildir(settings().mail_dir, factory=None, create=False)
    return {
        name: email.message_from_bytes(maildir.get_bytes(name), policy=default)
        for name in maildir.keys()  # noqa: SIM118  (a mailbox iterates over its messages)
    }


def files() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in settings().mail_dir.glob("*/*")}


class Sendings:
    """Counts how often each mail is really sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of, self._lock, self._write = Counter[str](), threading.Lock(), Maildir.write
        sendings = self

        def counted(maildir: Maildir, name: str, mail: Mail, **given: Any) -> None:
            with sendings._lock:
                sendings.of[name] += 1
            sendings._write(maildir, name, mail, **given)

        monkeypatch.setattr(Maildir, "write", counted)


async def make_all_due(shop: Shop) -> None:
    await shop.rows("UPDATE outbox SET next_attempt_at = now()")


async def test_a_message_is_sent(shop: Shop) -> None:
    await store(shop, "A")
    assert not await outbox.is_due()
    await put([confirmation("A")])
    assert await outbox.is_due()
    assert await outbox.deliver() == (1, 0)
    assert not await outbox.is_due()
    ((name, mail),) = mails().items()
    assert name == "A.confirmation.eml"
    assert mail["To"] == "John Doe <john.doe@example.com>"
    assert mail["Subject"] == "Your order A is confirmed"
    assert TRACKING in text_of(mail)
    assert "10.00 USD" in text_of(mail)
    (row,) = await shop.rows("SELECT * FROM outbox")
    assert (row.attempts, row.error) == (1, None)
    assert row.sent_at is not None


async def test_one_mail_for_one_order_however_often_it_is_delivered(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    sendings = Sendings(monkeypatch)
    await store(shop, "A")
    for _ in range(3):
        await put([confirmation("A"), confirmation("A"), refund("A")])
        await make_all_due(shop)
        await outbox.deliver()
    assert await shop.count("outbox") == 2
    assert sendings.of == {"A.confirmation.eml": 1, "A.refund.eml": 1}
    assert sorted(mails()) == ["A.confirmation.eml", "A.refund.eml"]


def while_it_is_written(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Does this while a mail is being written; then writing fails."""

    def interrupted(*_: Any, **__: Any) -> None:
        do()
        raise OSError("the disk is full")

    monkeypatch.setattr(Maildir, "write", interrupted)


async def test_a_mail_that_is_sent_again_while_it_is_being_sent_is_not_sent_twice(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(shop, "A")
    await put([confirmation("A")])
    while_it_is_written(monkeypatch, lambda: None)
    assert await outbox.deliver() == (0, 1)
    assert await outbox.send_again("A") == 1
    due: list[bool] = []

    def send_again_meanwhile() -> None:
        outbox.send_again_sync("A")
        due.append(asyncio.run(is_due_to_others()))

    while_it_is_written(monkeypatch, send_again_meanwhile)
    assert await outbox.deliver() == (0, 1)
    assert due == [False]
    assert await outbox.send_again("A") == 1
    assert await outbox.is_due(), "once its result is known"


async def is_due_to_others() -> bool:
    try:
        return await outbox.is_due()
    finally:
        await close_engine()


async def test_a_message_whose_customer_is_erased_while_it_is_being_sent_is_not_retried(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(shop, "A")
    await put([confirmation("A")])

    def erase() -> None:
        with sync_engine(settings().database_url).begin() as connection:
            outbox.erase(connection, ["A"], "erased")

    while_it_is_written(monkeypatch, erase)
    assert await outbox.deliver() == (0, 1)
    await make_all_due(shop)
    assert not await outbox.is_due()
    assert await shop.value("SELECT refused_at IS NOT NULL FROM outbox")


async def test_a_mail_whose_sender_died_before_recording_it_is_the_same_mail_again(shop: Shop) -> None:
    await store(shop, "A")
    await put([confirmation("A")])
    await outbox.deliver()
    before = files()
    await shop.rows("UPDATE outbox SET sent_at = NULL")
    assert await outbox.deliver() == (0, 0), "not at once: its sender may be alive"
    await make_all_due(shop)
    assert await outbox.deliver() == (1, 0)
    assert files() == before
    assert len(before) == 1


async def test_a_failure_is_tried_again_later(shop: Shop) -> None:
    settings().var_dir.mkdir(parents=True)
    settings().mail_dir.write_text("in the way")
    await store(shop, "A", "B")
    await put([confirmation("A"), refund("B")])
    pauses = []
    for attempt in (1, 2, 3):
        assert await outbox.deliver() == (0, 2)
        rows = await shop.rows(
            "SELECT sent_at, error, attempts, next_attempt_at - now() AS pause FROM outbox"
        )
        assert {(row.sent_at, row.attempts) for row in rows} == {(None, attempt)}
        assert all(row.error in {"NotADirectoryError", "FileExistsError"} for row in rows), (
            "the type only: the text may hold anything"
        )
        pauses.append(min(row.pause.total_seconds() for row in rows))
        assert not await outbox.is_due()
        assert await outbox.deliver() == (0, 0)
        await make_all_due(shop)
    assert pauses[0] > 20
    assert pauses == sorted(pauses)
    assert pauses[2] > 2 * pauses[0]
    settings().mail_dir.unlink()
    assert await outbox.deliver() == (2, 0)
    assert sorted(mails()) == ["A.confirmation.eml", "B.refund.eml"]
    assert {row.error for row in await shop.rows("SELECT error FROM outbox")} == {None}


async def test_pauses_do_not_grow_without_limit(shop: Shop) -> None:
    settings().var_dir.mkdir(parents=True)
    settings().mail_dir.write_text("in the way")
    await store(shop, "A")
    await put([refund("A")])
    await shop.rows("UPDATE outbox SET attempts = 1000")
    assert await outbox.deliver() == (0, 1)
    assert 0 < await shop.value("SELECT extract(epoch FROM next_attempt_at - now()) FROM outbox") < 2 * 3600


async def test_one_that_cannot_be_sent_does_not_hold_up_the_others(shop: Shop) -> None:
    await store(shop, "A", "B", "C")
    await put(
        [
            Message("A", Kind.CONFIRMATION, {}),
            confirmation("B"),
            Message("C", Kind.REFUND, {"amount": "much", "currency": "USD"}),
        ]
    )
    assert await outbox.deliver() == (1, 2)
    assert sorted(mails()) == ["B.confirmation.eml"]
    failed = dict(await shop.rows("SELECT order_id, error FROM outbox WHERE sent_at IS NULL"))
    assert failed == {"A": "KeyError", "C": "InvalidOperation"}


async def test_messages_of_an_open_transaction_are_not_seen(shop: Shop) -> None:
    await store(shop, "A", "B")
    async with transaction() as tx:
        await outbox.put(tx, [confirmation("A")])
        async with asyncio.timeout(10):
            assert not await outbox.is_due()
            assert await outbox.deliver() == (0, 0)
        assert not settings().mail_dir.exists()
    assert await outbox.deliver() == (1, 0)

    async def put_and_fail() -> None:
        async with transaction() as tx:
            await outbox.put(tx, [confirmation("B")])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await put_and_fail()
    assert await outbox.deliver() == (0, 0)
    assert sorted(mails()) == ["A.confirmation.eml"]


async def test_those_who_deliver_at_the_same_time_send_each_mail_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    sendings = Sendings(monkeypatch)
    ids = [f"{i:03}" for i in range(120)]
    await store(shop, *ids)
    await put([confirmation(i) for i in ids])
    results = await asyncio.gather(*(outbox.deliver(most=15) for _ in range(16)))
    assert sum(sent for sent, _ in results) == 120
    assert sum(failed for _, failed in results) == 0
    assert sendings.of == {f"{i}.confirmation.eml": 1 for i in ids}
    assert sorted(mails()) == [f"{i}.confirmation.eml" for i in ids]
    assert await shop.rows("SELECT DISTINCT attempts, sent_at IS NOT NULL FROM outbox") == [(1, True)]


async def test_a_second_deliverer_does_not_wait_for_the_first(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it take what the first one is sending."""
    sending, may_finish = threading.Event(), threading.Event()
    write = Maildir.write

    def slow(maildir: Maildir, name: str, mail: Mail, **given: Any) -> None:
        sending.set()
        assert may_finish.wait(20)
        write(maildir, name, mail, **given)

    await store(shop, "A", "B")
    await put([confirmation("A")])
    with monkeypatch.context() as patch:
        patch.setattr(Maildir, "write", slow)
        first = asyncio.create_task(outbox.deliver())
        assert await asyncio.to_thread(sending.wait, 20)
    try:
        await put([confirmation("B")])
        async with asyncio.timeout(10):
            assert await outbox.deliver() == (1, 0)
        assert sorted(mails()) == ["B.confirmation.eml"]
    finally:
        may_finish.set()
    assert await first == (1, 0)
    assert sorted(mails()) == ["A.confirmation.eml", "B.confirmation.eml"]


async def test_up_to_the_limit_and_of_these_orders(shop: Shop) -> None:
    await store(shop, *"ABCDE")
    await put([confirmation(i) for i in "ABCDE"])
    assert await outbox.deliver(order_ids=["D", "nobody"]) == (1, 0)
    assert await outbox.is_due(["A"])
    assert not await outbox.is_due(["D"])
    assert [await outbox.deliver(most=3) for _ in range(3)] == [(3, 0), (1, 0), (0, 0)]
    assert len(mails()) == 5


async def test_of_no_orders_nothing_is_delivered(shop: Shop) -> None:
    await store(shop, "A")
    await put([confirmation("A")])
    assert not await outbox.is_due([])
    assert await outbox.deliver(order_ids=[]) == (0, 0)
    assert not settings().mail_dir.exists()


async def test_a_refund_mail_states_the_amount(shop: Shop) -> None:
    await store(shop, "A")
    await put([refund("A", "7.30")])
    await outbox.deliver()
    ((name, mail),) = mails().items()
    assert name == "A.refund.eml"
    assert "7.30 USD" in text_of(mail)
    assert "10.00" not in text_of(mail)


async def test_notifying_again_notifies_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    sendings = Sendings(monkeypatch)
    orders = await shop.instance(an_order("A"), an_order("B", customer_email=None))
    for order in orders:
        written = template_confirmation(order.payload, settings()).model_dump(mode="json")
        await end("generate_confirmation", [order], **written)
        await end(carriers.STEP, [order], tracking_number=TRACKING)
    for _ in range(2):
        async with transaction() as tx:
            results = await notify(tx, orders)
        await make_all_due(shop)
        await outbox.deliver()
    assert {i: result.email_to for i, result in results.items()} == {"A": "customer", "B": "support"}
    assert sendings.of == {"A.confirmation.eml": 1, "B.confirmation.eml": 1}
    assert {name: mail["To"] for name, mail in mails().items()} == {
        "A.confirmation.eml": "John Doe <john.doe@example.com>",
        "B.confirmation.eml": f"Support <{settings().shop.support_email}>",
    }
    contacts = await shop.rows(
        "SELECT order_id, customer_id, kind, details FROM customer_interaction ORDER BY order_id"
    )
    assert [(row.order_id, row.customer_id, row.kind) for row in contacts] == [
        (i, "CUST-123", "order_confirmation") for i in "AB"
    ]
    assert contacts[0].details == {"tracking_number": TRACKING, "written_by": "template"}
    assert Decimal((await shop.order("A")).amount_refunded) == 0
