"""A mail server that is not ours (aiosmtpd),
on a real socket in a thread of its own, which does as a test says."""

from __future__ import annotations

import asyncio
import email
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


@dataclass(frozen=True)
class Taken:
    """A mail that the server has said yes to, or has kept without saying so."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes
    encrypted: bool
    login: str | None

    @property
    def mail(self) -> EmailMessage:
        return email.message_from_bytes(self.data, policy=default)  # type: ignore[return-value]

    @property
    def id(self) -> str:
        return str(self.mail["Message-ID"])


@dataclass
class MailServer:
    """`answer_hello`, `answer_sender`, `answer_recipient`, `answer_data`: a reply instead of yes.
    `after_data`: is called with each mail that was kept; True: the connection is cut without an answer."""

    host: str = "127.0.0.1"
    port: int = 0
    taken: list[Taken] = field(default_factory=list)
    connections: int = 0
    logins: int = 0
    answer_recipient: Callable[[str], str | None] = lambda _: None
    answer_hello: Callable[[str], str | None] = lambda _: None
    answer_sender: Callable[[str], str | None] = lambda _: None
    answer_data: Callable[[bytes], str | None] = lambda _: None
    after_data: Callable[[Taken], bool] = lambda _: False
    may_answer: threading.Event = field(default_factory=threading.Event)
    """Until it is set, a mail that was sent gets no answer."""
    open: set[asyncio.BaseTransport] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.may_answer.set()

    @property
    def ids(self) -> list[str]:
        return [taken.id for taken in self.taken]

    # -- what aiosmtpd calls

    async def handle_EHLO(  # noqa: N802  (aiosmtpd's)
        self, _server: SMTP, session: Session, _envelope: Envelope, name: str, responses: list[str]
    ) -> list[str]:
        if reply := self.answer_hello(name):
            return [reply]
        session.host_name = name
        return responses

    async def handle_HELO(self, _server: SMTP, session: Session, _envelope: Envelope, name: str) -> str:  # noqa: N802
        session.host_name = name
        return self.answer_hello(name) or "250 hello"

    async def handle_MAIL(  # noqa: N802  (aiosmtpd's)
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if reply := self.answer_sender(address):
            return reply
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(  # noqa: N802  (aiosmtpd's)
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if reply := self.answer_recipient(address):
            return reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        data = envelope.content if isinstance(envelope.content, bytes) else b""
        if reply := self.answer_data(data):
            return reply
        login = session.auth_data.login.decode() if isinstance(session.auth_data, LoginPassword) else None
        encrypted = server.transport is not None and server.transport.get_extra_info("sslcontext") is not None
        taken = Taken(envelope.mail_from or "", tuple(map(str, envelope.rcpt_tos)), data, encrypted, login)
        self.taken.append(taken)
        while not self.may_answer.is_set():
            await asyncio.sleep(0.02)
        if self.after_data(taken) and server.transport is not None:
            server.transport.abort()  # type: ignore[attr-defined]
        return "250 OK"


@contextmanager
def mail_server(
    *,
    tls: ssl.SSLContext | None = None,
    starttls: ssl.SSLContext | None = None,
    login: tuple[str, str] | None = None,
    port: int = 0,
    **options: Any,
) -> Iterator[MailServer]:
    """A server at `host` and `port`; `tls` from the first byte, or when asked for it (`starttls`). With a
    `login` it accepts no other mails."""
    server, ready, loop = MailServer(), threading.Event(), asyncio.new_event_loop()

    def authenticate(
        _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, given: Any
    ) -> AuthResult:
        server.logins += 1
        right = login is not None and given == LoginPassword(login[0].encode(), login[1].encode())
        return AuthResult(success=right, handled=False, auth_data=given if right else None)

    class Counted(SMTP):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            if self.transport is None:
                server.connections += 1
            server.open.add(transport)
            super().connection_made(transport)

        def connection_lost(self, error: Exception | None) -> None:
            server.open.discard(self.transport)  # type: ignore[arg-type]
            super().connection_lost(error)

    def protocol() -> SMTP:
        auth: dict[str, Any] = (
            {"authenticator": authenticate, "auth_required": True, "auth_require_tls": False} if login else {}
        )
        return Counted(
            server,
            hostname="mail.test",
            tls_context=starttls,
            enable_SMTPUTF8=options.get("smtputf8", True),
            loop=loop,
            **auth,
        )

    async def serve() -> None:
        listening = await loop.create_server(protocol, server.host, port, ssl=tls)
        server.port = listening.sockets[0].getsockname()[1]
        ready.set()
        try:
            await stop.wait()
        finally:
            listening.close()
            for transport in list(server.open):
                transport.abort()  # type: ignore[attr-defined]

    stop = asyncio.Event()

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(serve())
            rest = asyncio.all_tasks(loop)
            for task in rest:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="mail server")
    thread.start()
    try:
        assert ready.wait(20), "the mail server does not start"
        yield server
    finally:
        server.may_answer.set()
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        assert not thread.is_alive()
