"""Mails handed to a mail server that is not ours, over the wire: refusals,
greylisting, broken connections. Once, as far as SMTP allows."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from deployments.environment import environment
from deployments.local.processes import free_port
from saga.database import sync_engine
from shop.notifications import outbox, senders
from shop.notifications.delivery_log import DATA_SECONDS
from shop.notifications.kinds import Kind
from shop.notifications.mail import message_id
from shop.notifications.outbox import Message, read_undelivered, send_again
from shop.runtime.installation import read_installation_id
from shop.settings import Settings, settings
from shop.shipping.errors import CarrierTimeout
from tests.integration.domain import Shop
from tests.integration.test_outbox import confirmation, files, make_all_due, put, refund, store
from tests.integration.world import html_of, text_of
from tests.mail_server import MailServer, mail_server
from tests.waiting import until

pytest_plugins = ["tests.integration.domain_fixtures"]


@contextmanager
def through(
    server: MailServer, login: str = "", scheme: str = "smtp", query: str = "", **more: str
) -> Iterator[None]:
    """This process's mails go to that server."""
    url = f"{scheme}://{login}{server.host}:{server.port}{query}"
    with environment({"SMTP_URL": url, "SMTP_TIMEOUT_SECONDS": "5", **more}):
        yield


@pytest.fixture
def server() -> Iterator[MailServer]:
    """A server that accepts everything unless a test changes that."""
    with mail_server() as server, through(server):
        yield server


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA) -> ssl.SSLContext:
    """The server's, for 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def trusted(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority's certificate, for a client to trust."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


async def state(shop: Shop) -> dict[str, tuple[str, str | None]]:
    """Order to what became of its message, and why."""
    rows = await shop.rows("SELECT order_id, sent_at, refused_at, error FROM outbox")
    return {
        row.order_id: ("sent" if row.sent_at else "refused" if row.refused_at else "waiting", row.error)
        for row in rows
    }


def id_of(order_id: str, kind: Kind = Kind.CONFIRMATION) -> str:
    with sync_engine(settings().database_url).connect() as connection:
        return message_id(order_id, kind, settings(), read_installation_id(connection))


class TestSending:
    async def test_a_mail_arrives(self, shop: Shop, server: MailServer) -> None:
        await store(shop, "A")
        await put([confirmation("A")])
        assert await outbox.deliver() == (1, 0)
        (taken,) = server.taken
        assert (taken.sender, taken.recipients) == ("orders@shop.example", ("john.doe@example.com",))
        assert taken.id == id_of("A")
        assert "10.00 USD" in text_of(taken.mail)
        assert "Your order is confirmed" in html_of(taken.mail)
        assert await state(shop) == {"A": ("sent", None)}
        assert not settings().mail_dir.exists(), "with a mail server nothing is kept here"

    async def test_many_share_a_few_connections(self, shop: Shop, server: MailServer) -> None:
        ids = [f"{i:03}" for i in range(60)]
        await store(shop, *ids)
        await put([confirmation(i) for i in ids])
        assert await outbox.deliver(most=100) == (60, 0)
        assert sorted(server.ids) == sorted(map(id_of, ids))
        assert server.connections <= settings().smtp.connections
        await until(lambda: _is(not server.open), 20, "the connections to be closed")

    async def test_those_who_deliver_at_the_same_time_send_each_mail_once(
        self, shop: Shop, server: MailServer
    ) -> None:
        ids = [f"{i:03}" for i in range(60)]
        await store(shop, *ids)
        await put([confirmation(i) for i in ids])
        await asyncio.gather(*(outbox.deliver(most=10) for _ in range(8)))
        assert Counter(server.ids) == Counter(map(id_of, ids))

    @pytest.mark.parametrize("out_of_time", [False, True])
    async def test_a_carrier_that_hangs_keeps_no_other_mail_back(
        self, shop: Shop, server: MailServer, monkeypatch: pytest.MonkeyPatch, out_of_time: bool
    ) -> None:
        await store(shop, "A", "B")
        parcel = {"tracking_number": "1", "booked_at": "easypost", "shipment_id": "shp_1"}
        await put([Message("A", Kind.CONFIRMATION, parcel), refund("B")])
        sent_before: list[list[str]] = []

        def hang(*_: object) -> None:
            sent_before.append(list(server.ids))
            raise CarrierTimeout("EasyPost gave no answer within 15 s")

        monkeypatch.setattr(senders, "fetch_label", hang)
        if out_of_time:
            monkeypatch.setattr(senders, "_HANDOVER_SECONDS", senders.SENDING_SECONDS + 1)
        sent, failed = await outbox.deliver()
        if out_of_time:
            assert (sent, failed, sent_before) == (0, 0, []), "no label is waited for any more"
            assert await shop.value("SELECT max(attempts) FROM outbox") == 0
        else:
            assert (sent, failed, sent_before) == (1, 1, [[id_of("B", Kind.REFUND)]])

    async def test_lines_that_begin_with_a_dot_and_what_looks_like_the_end(
        self, shop: Shop, server: MailServer
    ) -> None:
        await store(shop, "A")
        hostile = "one\n.\nMAIL FROM:<x@evil.example>\n..two\n.three"
        await shop.rows(
            "UPDATE order_step SET result = result || jsonb_build_object('greeting', CAST(:text AS text))",
            text=hostile,
        )
        await put([confirmation("A")])
        assert await outbox.deliver() == (1, 0)
        (taken,) = server.taken
        assert text_of(taken.mail).startswith(hostile)

    async def test_no_thread_is_left(self, shop: Shop, server: MailServer) -> None:
        await store(shop, "A", "B")
        await put([confirmation("A")])
        await outbox.deliver()
        before = {thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")}
        tasks = asyncio.all_tasks()
        await put([confirmation("B")])
        await outbox.deliver()
        assert {
            thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")
        } == before
        assert asyncio.all_tasks() == tasks

    async def test_an_address_beyond_ascii_needs_a_server_that_takes_it(self, shop: Shop) -> None:
        await store(shop, "A")
        await shop.rows(
            """UPDATE customer_order SET content = content || '{"customer_email": "jörg@example.com"}'"""
        )
        await put([confirmation("A"), refund("A")])
        with mail_server(smtputf8=False) as old, through(old):
            assert await outbox.deliver(most=1) == (0, 1)
            assert old.taken == []
        with mail_server() as able, through(able):
            assert await outbox.deliver() == (1, 0)
            assert able.taken[0].recipients == ("jörg@example.com",)
        assert "SMTPUTF8" in str(await shop.value("SELECT error FROM outbox WHERE refused_at IS NOT NULL"))


class TestEncryptionAndLogin:
    async def test_starttls_and_login(self, shop: Shop, certificate: ssl.SSLContext, trusted: Path) -> None:
        await store(shop, "A")
        await put([confirmation("A")])
        with (
            mail_server(starttls=certificate, login=("ann", "p@ss/word")) as server,
            through(server, login="ann:p%40ss%2Fword@", query=f"?ca={trusted}"),
        ):
            assert await outbox.deliver() == (1, 0)
        (taken,) = server.taken
        assert (taken.encrypted, taken.login) == (True, "ann")

    async def test_encrypted_from_the_start(
        self, shop: Shop, certificate: ssl.SSLContext, trusted: Path
    ) -> None:
        await store(shop, "A")
        await put([confirmation("A")])
        with (
            mail_server(tls=certificate, login=("ann", "secret")) as server,
            through(server, login="ann:secret@", scheme="smtps", query=f"?ca={trusted}"),
        ):
            assert await outbox.deliver() == (1, 0)
        assert [(taken.encrypted, taken.login) for taken in server.taken] == [(True, "ann")]

    async def test_if_offered(self, shop: Shop, certificate: ssl.SSLContext, trusted: Path) -> None:
        await store(shop, "A")
        await put([confirmation("A")])
        with mail_server(starttls=certificate) as server, through(server, query=f"?ca={trusted}"):
            assert await outbox.deliver() == (1, 0)
        assert [taken.encrypted for taken in server.taken] == [True]

    @pytest.mark.parametrize("scheme", ["smtp", "smtps"])
    async def test_an_untrusted_certificate(
        self, shop: Shop, certificate: ssl.SSLContext, scheme: str
    ) -> None:
        await store(shop, "A")
        await put([confirmation("A")])
        tls: dict[str, Any] = {"tls" if scheme == "smtps" else "starttls": certificate}
        with (
            mail_server(**tls, login=("ann", "secret")) as server,
            through(server, login="ann:secret@", scheme=scheme),
        ):
            assert await outbox.deliver() == (0, 1)
        assert (server.taken, server.logins) == ([], 0), "the password is told to nobody else"
        what, error = (await state(shop))["A"]
        assert what == "waiting"
        assert "certificate is not trusted" in str(error)

    async def test_a_login_is_not_sent_without_encryption(self, shop: Shop) -> None:
        await store(shop, "A")
        await put([confirmation("A")])
        with mail_server(login=("ann", "secret")) as server:
            with through(server, login="ann:secret@"):
                assert await outbox.deliver() == (0, 1)
            assert (server.taken, server.logins) == ([], 0)
            assert "STARTTLS" in str((await state(shop))["A"][1])
            await make_all_due(shop)
            with through(server, login="ann:secret@", query="?starttls=never"):
                assert await outbox.deliver() == (1, 0), "unless that is said"

    async def test_a_wrong_password_stops_and_names_the_setting(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        ids = [f"{i:02}" for i in range(20)]
        await store(shop, *ids)
        await put([confirmation(i) for i in ids])
        with mail_server(login=("ann", "right")) as server:
            with (
                through(server, login="ann:wrong-password@", query="?starttls=never"),
                caplog.at_level(logging.INFO),
            ):
                assert await outbox.deliver(most=50) == (0, 20)
            assert 1 <= server.logins <= 2 * settings().smtp.connections, (
                "not once for each mail: that would lock the account"
            )
            assert {
                (what, "login in SMTP_URL (535" in str(error)) for what, error in (await state(shop)).values()
            } == {("waiting", True)}
            assert "SMTP_URL" in caplog.text
            assert "wrong-password" not in caplog.text
            await make_all_due(shop)
            with through(server, login="ann:right@", query="?starttls=never"):
                assert await outbox.deliver(most=50) == (20, 0)
        assert Counter(server.ids) == Counter(map(id_of, ids))


class TestRefusals:
    async def test_a_recipient_who_is_not_there(self, shop: Shop, server: MailServer) -> None:
        """Not tried for ever; the order stays as it is, others get theirs, and people see it."""
        await store(shop, "A", "B")
        await shop.rows(
            """UPDATE customer_order SET content = content || '{"customer_email": "gone@example.com"}' """
            "WHERE id = 'A'"
        )
        server.answer_recipient = lambda address: (
            "550 5.1.1 <gone@example.com> no such user" if address.startswith("gone") else None
        )
        await put([confirmation("A"), confirmation("B")])
        assert await outbox.deliver() == (1, 1)
        assert server.ids == [id_of("B")]
        assert await state(shop) == {
            "A": ("refused", "the mail server answered 550 5.1.1"),
            "B": ("sent", None),
        }
        await make_all_due(shop)
        assert not await outbox.is_due()
        assert await outbox.deliver() == (0, 0)
        (left,) = await read_undelivered()
        assert (left.order_id, left.kind, left.error) == (
            "A",
            "confirmation",
            "the mail server answered 550 5.1.1",
        )
        assert left.refused
        server.answer_recipient = lambda _: None
        assert await send_again("A") == 1
        assert await outbox.deliver() == (1, 0)
        assert await read_undelivered() == []
        assert sorted(server.ids) == sorted([id_of("A"), id_of("B")])

    async def test_what_the_server_wrote_is_not_kept(
        self, shop: Shop, server: MailServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.answer_data = lambda _: "554 5.7.1 john.doe@example.com is on a list"
        await store(shop, "A")
        await put([confirmation("A")])
        with caplog.at_level(logging.DEBUG):
            assert await outbox.deliver() == (0, 1)
        assert (await state(shop))["A"] == ("refused", "the mail server answered 554 5.7.1")
        assert "john.doe" not in "".join(
            record.getMessage() for record in caplog.records if record.name != "mail.log"
        )

    async def test_greylisting(self, shop: Shop, server: MailServer) -> None:
        """Not now, a little later: after the outbox's pause it is taken, once."""
        answers = iter(["451 4.7.1 greylisted, try again", "450 4.2.0 still"])
        server.answer_recipient = lambda _: next(answers, None)
        await store(shop, "A")
        await put([confirmation("A")])
        for attempt in (1, 2):
            assert await outbox.deliver() == (0, 1)
            assert (await state(shop))["A"][0] == "waiting"
            assert await shop.value("SELECT attempts FROM outbox") == attempt
            assert not await outbox.is_due()
            await make_all_due(shop)
        assert await outbox.deliver() == (1, 0)
        assert server.ids == [id_of("A")]
        assert await state(shop) == {"A": ("sent", None)}

    async def test_one_that_is_refused_does_not_hold_up_the_rest(
        self, shop: Shop, server: MailServer
    ) -> None:
        ids = [f"{i:02}" for i in range(20)]
        await store(shop, *ids)
        bad = iter([None, "550 no", "451 later", None, "552 too big"])
        server.answer_data = lambda _: next(bad, None)
        await put([confirmation(i) for i in ids])
        assert await outbox.deliver(most=50) == (17, 3)
        assert Counter(what for what, _ in (await state(shop)).values()) == {
            "sent": 17,
            "refused": 2,
            "waiting": 1,
        }
        assert len(set(server.ids)) == len(server.ids) == 17

    async def test_a_refused_sender_is_a_configuration_error(self, shop: Shop, server: MailServer) -> None:
        """No customer's mail is given up for it."""
        server.answer_sender = lambda _: "553 5.7.1 sender not owned by user"
        await store(shop, "A", "B")
        await put([confirmation("A"), confirmation("B")])
        assert await outbox.deliver() == (0, 2)
        assert {what for what, _ in (await state(shop)).values()} == {"waiting"}
        assert "SHOP_EMAIL" in str((await state(shop))["A"][1])

    @pytest.mark.parametrize("starttls", ["if-offered", "never"])
    async def test_a_refused_greeting_is_a_configuration_error(
        self, shop: Shop, server: MailServer, starttls: str
    ) -> None:
        url = f"smtp://{server.host}:{server.port}?starttls={starttls}"
        with environment({"SMTP_URL": url}):
            await self._greeting_refused(shop, server)

    async def _greeting_refused(self, shop: Shop, server: MailServer) -> None:
        server.answer_hello = lambda _: "550 5.7.1 Helo command rejected: need fully-qualified hostname"
        await store(shop, "A", "B")
        await put([confirmation("A"), confirmation("B")])
        assert await outbox.deliver() == (0, 2)
        assert {what for what, _ in (await state(shop)).values()} == {"waiting"}
        server.answer_hello = lambda _: None
        await make_all_due(shop)
        assert await outbox.deliver() == (2, 0)

    @pytest.mark.parametrize(
        "reply",
        [
            *(
                "554 5.7.1 <x@example.com>: Helo command rejected: Host not found",
                "554 5.7.1 <shop[192.0.2.1]>: Client host rejected: Access denied",
                "554 5.7.1 <x@example.com>: Relay access denied",
                "530 5.7.0 Authentication required",
                "550 relaying denied",
            ),
            *(
                "550 5.7.1 Authentication required",
                "550 5.7.54 SMTP; Unable to relay recipient",
                "454 4.7.1 Relay access denied",
            ),
        ],
    )
    async def test_a_server_that_does_not_know_us_refuses_no_customer(
        self, shop: Shop, server: MailServer, reply: str
    ) -> None:
        """Or all confirmations of a night would be given up for a login that was changed."""
        server.answer_recipient = lambda _: reply
        await store(shop, "A", "B")
        await put([confirmation("A"), confirmation("B")])
        assert await outbox.deliver() == (0, 2)
        assert {what for what, _ in (await state(shop)).values()} == {"waiting"}
        assert "SMTP_URL" in str((await state(shop))["A"][1])
        server.answer_recipient = lambda _: None
        await make_all_due(shop)
        assert await outbox.deliver() == (2, 0)
        assert sorted(server.ids) == sorted([id_of("A"), id_of("B")])

    @pytest.mark.parametrize(
        "reply",
        [
            *(
                "550 5.1.1 <relay@example.com>: User unknown",
                "550 5.1.1 no relay has this mailbox",
                "550 relay@example.com is unknown",
            ),
            *("550 5.7.1 <x@example.com>: refused by the recipient", "554 5.7.1 blocked by policy"),
        ],
    )
    async def test_a_refusal_of_one_recipient_is_no_server_error(
        self, shop: Shop, server: MailServer, reply: str
    ) -> None:
        """Whatever the address is called. The next mail goes out."""
        answers = iter([reply])
        server.answer_recipient = lambda _: next(answers, None)
        await store(shop, "A", "B")
        await put([confirmation("A"), confirmation("B")])
        with environment({"SMTP_CONNECTIONS": "1"}):
            assert await outbox.deliver() == (1, 1)
        assert sorted(what for what, _ in (await state(shop)).values()) == ["refused", "sent"]


class TestBrokenConnections:
    async def test_one_that_drops_after_the_text(self, shop: Shop, server: MailServer) -> None:
        """The server may have accepted the mail: that is unknown.
        It is sent again, later, and is recognisable as the same mail."""
        server.after_data = lambda _: len(server.taken) == 1
        await store(shop, "A")
        await put([confirmation("A")])
        assert await outbox.deliver() == (0, 1)
        what, error = (await state(shop))["A"]
        assert (what, "may have arrived" in str(error)) == ("waiting", True)
        assert await outbox.deliver() == (0, 0), "not at once"
        await make_all_due(shop)
        assert await outbox.deliver() == (1, 0)
        assert server.ids == [id_of("A")] * 2
        assert server.taken[0].data == server.taken[1].data
        await make_all_due(shop)
        assert await outbox.deliver() == (0, 0)

    async def test_one_that_always_drops_after_the_text_is_not_tried_for_ever(
        self, shop: Shop, server: MailServer
    ) -> None:
        """Each try may be a copy in the customer's mailbox: after five a person looks."""
        server.after_data = lambda _: True
        await store(shop, "A")
        await put([confirmation("A")])
        for _ in range(8):
            await outbox.deliver()
            await make_all_due(shop)
        assert server.ids == [id_of("A")] * 5
        (left,) = await read_undelivered()
        assert left.refused
        assert "may have arrived" in left.error

    async def test_a_connection_that_the_server_ends_between_two_mails_costs_nothing(
        self, shop: Shop, server: MailServer
    ) -> None:
        ends = {2, 5}

        def end_some(_: str) -> str | None:
            if len(server.taken) in ends:
                ends.remove(len(server.taken))
                for transport in list(server.open):
                    transport.abort()  # type: ignore[attr-defined]
            return None

        server.answer_sender = end_some
        ids = [f"{i:02}" for i in range(10)]
        await store(shop, *ids)
        await put([confirmation(i) for i in ids])
        with environment({"SMTP_CONNECTIONS": "1"}):
            assert await outbox.deliver() == (10, 0)
        assert Counter(server.ids) == Counter(map(id_of, ids))
        assert server.connections == 3

    async def test_a_server_that_closes_down_reports_it(self, shop: Shop, server: MailServer) -> None:
        server.answer_recipient = lambda _: "421 4.3.2 closing"
        ids = [f"{i:02}" for i in range(12)]
        await store(shop, *ids)
        await put([confirmation(i) for i in ids])
        assert await outbox.deliver() == (0, 12)
        assert server.connections <= 2 * settings().smtp.connections
        assert {what for what, _ in (await state(shop)).values()} == {"waiting"}

    async def test_a_server_becomes_unavailable_and_recovers(self, shop: Shop) -> None:
        port = free_port()
        ids = [f"{i:02}" for i in range(10)]
        await store(shop, *ids)
        await put([confirmation(i) for i in ids])
        with environment({"SMTP_URL": f"smtp://127.0.0.1:{port}", "SMTP_TIMEOUT_SECONDS": "5"}):
            assert await outbox.deliver() == (0, 10)
            assert {(what, "SMTP_URL" in str(error)) for what, error in (await state(shop)).values()} == {
                ("waiting", True)
            }
            await make_all_due(shop)
            with mail_server(port=port) as server:
                assert await outbox.deliver() == (10, 0)
        assert Counter(server.ids) == Counter(map(id_of, ids))

    async def test_a_server_that_does_not_greet(self, shop: Shop) -> None:
        silent = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
        await store(shop, "A", "B", "C")
        await put([confirmation(i) for i in "ABC"])
        with environment(
            {
                "SMTP_URL": f"smtp://127.0.0.1:{silent.sockets[0].getsockname()[1]}",
                "SMTP_TIMEOUT_SECONDS": "0.3",
            }
        ):
            begin = time.monotonic()
            assert await outbox.deliver() == (0, 3)
            assert time.monotonic() - begin < 15
        silent.close()

    async def test_a_slow_answer_after_the_text_is_waited_for(self, shop: Shop, server: MailServer) -> None:
        """Longer than for a command: a timeout that is too short sends it twice.
        Meanwhile no other worker sends it."""
        server.may_answer.clear()
        await store(shop, "A")
        await put([confirmation("A")])
        with environment({"SMTP_TIMEOUT_SECONDS": "1"}):
            sending = asyncio.create_task(outbox.deliver())
            await until(lambda: _is(bool(server.taken)), 10, "the server to have the mail")
            left = await shop.value("SELECT extract(epoch FROM next_attempt_at - now()) FROM outbox")
            assert left > DATA_SECONDS
            done, _ = await asyncio.wait([sending], timeout=2)
            assert not done
            server.may_answer.set()
            assert await sending == (1, 0)
        assert server.ids == [id_of("A")]

    async def test_a_sender_that_is_cancelled_leaves_what_it_has_not_begun(
        self, shop: Shop, server: MailServer
    ) -> None:
        server.may_answer.clear()
        ids = [f"{i:02}" for i in range(10)]
        await store(shop, *ids)
        await put([confirmation(i) for i in ids])
        with environment({"SMTP_CONNECTIONS": "1"}):
            sending = asyncio.create_task(outbox.deliver())
            await until(lambda: _is(bool(server.taken)), 10, "the server to have the mail")
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            server.may_answer.set()
            await make_all_due(shop)
            assert await outbox.deliver() == (10, 0)
        counted = Counter(server.ids)
        assert set(counted) == set(map(id_of, ids))
        assert sorted(counted.values()) == [1] * 9 + [2], "only the one that it was sending may come twice"


async def test_each_is_noted_as_soon_as_it_is_taken(shop: Shop, server: MailServer) -> None:
    """So that a sender's death leaves one mail in doubt for a connection, and not a whole batch."""
    ids = [f"{i:02}" for i in range(6)]
    await store(shop, *ids)
    await put([confirmation(i) for i in ids])

    def hesitate(data: bytes) -> None:
        if len(server.taken) == 3:
            server.may_answer.clear()

    server.answer_data = hesitate
    with environment({"SMTP_CONNECTIONS": "1"}):
        sending = asyncio.create_task(outbox.deliver())
        await until(lambda: _is(len(server.taken) == 4), 20, "the fourth mail")
        assert await shop.value("SELECT count(*) FROM outbox WHERE sent_at IS NOT NULL") == 3
        server.may_answer.set()
        assert await sending == (6, 0)


async def _is(so: bool) -> bool:
    return so


async def test_without_a_url_it_is_the_maildir_again(shop: Shop, server: MailServer) -> None:
    await store(shop, "A")
    await put([confirmation("A")])
    with ExitStack() as stack:
        stack.enter_context(environment({"SMTP_URL": ""}))
        assert await outbox.deliver() == (1, 0)
    assert [path.name for path in files()] == ["A.confirmation.eml"]
    assert server.taken == []


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            "mail.example",
            "http://mail.example",
            "smtp://",
            "smtp://user@mail.example",
            "smtp://:secret@mail.example",
            "smtp://h:99999",
        ),
        *(
            "smtp://h/path",
            "smtp://h?starttls=maybe",
            "smtps://h?starttls=required",
            "smtp://h?tls=yes",
            "smtp://h#x",
        ),
    ],
)
def test_an_invalid_url_is_reported_without_its_password(wrong: str) -> None:
    with pytest.raises(ValueError, match="SMTP_URL") as raised:
        Settings(_env_file=None, SMTP_URL=wrong)
    assert "secret" not in str(raised.value)


def test_the_url_is_not_shown() -> None:
    given = Settings(_env_file=None, SMTP_URL="smtp://ann:pass4711@mail.example")
    assert "pass4711" not in f"{given!r} {given} {given.model_dump_json()}"
