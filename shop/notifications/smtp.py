"""Sends mails to a mail server over a few connections, each for many mails, and reports each result
immediately.

A mail counts as sent when the server has confirmed it after its text. SMTP cannot resolve a connection that
breaks between the two: the mail may have been accepted. It is then sent again with the same Message-ID, by
which mail programs and servers can recognise the duplicate, though not all do.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

from aiosmtplib import (
    SMTP,
    SMTPAuthenticationError,
    SMTPException,
    SMTPRecipientRefused,
    SMTPResponseException,
    SMTPSenderRefused,
)

from shop.notifications.delivery_log import (
    DATA_SECONDS,
    HANDING_OVER,
    SENT,
    Batch,
    DeliveryResult,
    OnResult,
)
from shop.notifications.message import Mail
from shop.notifications.settings import SmtpServer

log = logging.getLogger(__name__)

_CLOSING = 421
_TOO_BIG = 552
_LOGIN_FIRST = 530
_RELAY_DENIED = re.compile(r"\brelay|\b(?:un)?authenticat|\bhelo command|\bclient host", re.IGNORECASE)
"""How Postfix and others refuse each recipient if they do not accept our login or our machine: it does not
concern the recipient."""
_ADDRESS = re.compile(r"<[^<>]*>|(?<![^\s@])[^\s@]++@\S*+")
"""The recipient's address in a refusal, whose words are ignored."""
_MAX_REPLY = 1_000
"""Limits what is read of a server's reply, in characters."""
_STARTTLS = {"required": True, "never": False, "if-offered": None}
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}(?!\S)")


class MailServerError(Exception):
    """The server accepts no mail at the moment, whichever it is. The message names the setting to check."""


class Handover:
    """Sends one batch of mails. `seconds` limits connecting, and the commands of one mail."""

    def __init__(self, server: SmtpServer, *, seconds: float, connections: int, name: str) -> None:
        self._server, self._seconds, self._connections, self._name = server, seconds, connections, name

    async def send(self, mails: Sequence[tuple[int, Mail]], on_result: OnResult, *, until: float) -> None:
        """Sends the mails and reports each result. Starts none after `until` (`time.monotonic()`), nor after
        a `MailServerError`."""
        batch = Batch(mails, on_result, until=until)
        await batch.work(lambda: self._worker(batch), self._connections)

    async def _worker(self, batch: Batch[Mail]) -> None:
        connection = _Connection(self._server, self._seconds, self._name)

        async def send(mail: Mail) -> DeliveryResult:
            try:
                return await connection.send(mail)
            except MailServerError as error:
                batch.failure = batch.failure or _stopped_by(error)
                return batch.failure

        try:
            await batch.send_all(send)
        finally:
            await connection.close()


def _stopped_by(error: MailServerError) -> DeliveryResult:
    log.error("mails cannot be sent: %s; they are retried later", error)
    return DeliveryResult("later", str(error))


async def check_login(server: SmtpServer, *, seconds: float, name: str) -> None:
    """Connects and logs in without sending a mail. Raises `MailServerError`."""
    connection = _Connection(server, seconds, name)
    try:
        await connection.open()
    finally:
        await connection.close()


class _Connection:
    """A connection, opened for the first mail, and again if the server has closed it between two mails."""

    def __init__(self, server: SmtpServer, seconds: float, name: str) -> None:
        self._server, self._seconds, self._name = server, seconds, name
        self._client: SMTP | None = None
        self._fresh = True

    async def send(self, mail: Mail) -> DeliveryResult:
        """Sends the mail and returns the result. Raises `MailServerError` if the failure does not concern
        this mail."""
        while True:
            client = await self.open()
            used, self._fresh = not self._fresh, False
            try:
                return await self._hand_over(client, mail)
            except _ConnectionBroken as broken:
                await self.close()
                if not used:
                    return DeliveryResult("later", f"the connection broke ({broken})")

    async def _hand_over(self, client: SMTP, mail: Mail) -> DeliveryResult:
        try:
            async with asyncio.timeout(self._seconds):
                if mail.international and not client.supports_extension("smtputf8"):
                    return DeliveryResult(
                        "refused", "the mail server does not accept addresses that are not ASCII (SMTPUTF8)"
                    )
                await client.mail(
                    mail.sender, options=["SMTPUTF8"] if mail.international else [], encoding="utf-8"
                )
                await client.rcpt(mail.recipient, encoding="utf-8")
        except SMTPResponseException as reply:
            return await self._refused(client, reply)
        except (SMTPException, OSError, TimeoutError) as error:
            raise _ConnectionBroken(type(error).__name__) from None
        try:
            async with asyncio.timeout(max(DATA_SECONDS, self._seconds)):
                with HANDING_OVER:
                    await client.data(mail.data)
        except SMTPResponseException as reply:
            return await self._refused(client, reply)
        except (SMTPException, OSError, TimeoutError) as error:
            await self.close()
            return DeliveryResult(
                "unclear", f"no answer after the mail was sent ({type(error).__name__}): it may have arrived"
            )
        return SENT

    async def _refused(self, client: SMTP, reply: SMTPResponseException) -> DeliveryResult:
        """Classifies a refusal: of this mail, temporarily or permanently, or of all mails
        (`MailServerError`)."""
        codes, of_all = _codes(reply), None
        if reply.code == _CLOSING:
            of_all = "the mail server (SMTP_URL) closes the connection"
        elif isinstance(reply, SMTPSenderRefused) and reply.code >= 500 and reply.code != _TOO_BIG:
            of_all = "the mail server refuses the sender: check SHOP_EMAIL and the login in SMTP_URL"
        elif isinstance(reply, SMTPRecipientRefused) and _rejects_every_mail(reply):
            of_all = "the mail server does not relay mail for this login: check the login in SMTP_URL"
        if of_all:
            await self.close()
            raise MailServerError(f"{of_all} ({codes})")
        with suppress(SMTPException, OSError, TimeoutError):
            async with asyncio.timeout(self._seconds):
                await client.rset()
        return DeliveryResult(
            "refused" if reply.code >= 500 else "later", f"the mail server answered {codes}"
        )

    async def open(self) -> SMTP:
        """Returns the open connection, and opens it if needed. Raises `MailServerError`."""
        if self._client is not None and self._client.is_connected:
            return self._client
        await self.close()
        try:
            async with asyncio.timeout(self._seconds):
                self._client, self._fresh = await self._connected(), True
        except SMTPAuthenticationError as reply:
            raise MailServerError(
                f"the mail server refuses the login in SMTP_URL ({_codes(reply)})"
            ) from None
        except SMTPResponseException as reply:
            raise MailServerError(
                f"the mail server (SMTP_URL) does not accept connections at the moment ({_codes(reply)})"
            ) from None
        except (SMTPException, OSError, TimeoutError) as error:
            raise MailServerError(f"the mail server (SMTP_URL) cannot be used: {_reason(error)}") from None
        return self._client

    async def _connected(self) -> SMTP:
        s = self._server
        safe = s.tls or s.starttls != "never"
        client = SMTP(
            hostname=s.host,
            port=s.port,
            use_tls=s.tls,
            start_tls=False if s.tls else _STARTTLS[s.starttls],
            tls_context=await asyncio.to_thread(_tls, s.ca) if safe else None,
            username=s.user,
            password=s.password,
            local_hostname=self._name,
            timeout=max(DATA_SECONDS, self._seconds),  # shorter ones are set for each command
        )
        try:
            await client.connect()
            if client.is_ehlo_or_helo_needed:
                await client.ehlo()
        except BaseException:
            client.close()
            raise
        return client

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is None:
            return
        if client.is_connected:
            with suppress(SMTPException, OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await client.quit()
        client.close()


class _ConnectionBroken(Exception):
    """The connection broke before the mail's text was sent: it cannot have arrived."""


@lru_cache
def _tls(ca: str | None) -> ssl.SSLContext:
    """Returns the TLS context, cached: loading the certificates takes a tenth of a second. Raises OSError if
    the file does not exist."""
    return ssl.create_default_context(cafile=ca)


def _codes(reply: SMTPResponseException) -> str:
    """Returns the reply's codes only: its text may contain the customer's address."""
    enhanced = _ENHANCED.match(reply.message or "")
    return f"{reply.code} {enhanced[0]}" if enhanced else str(reply.code)


def _rejects_every_mail(reply: SMTPResponseException) -> bool:
    """Returns whether the refusal concerns us, not the recipient. With an enhanced code, only policy codes
    (5.7.x) do."""
    words = (reply.message or "")[:_MAX_REPLY]
    enhanced = _ENHANCED.match(words)
    about_us = enhanced is None or enhanced[0].split(".")[1] == "7"
    return reply.code == _LOGIN_FIRST or (
        about_us and _RELAY_DENIED.search(_ADDRESS.sub(" ", words)) is not None
    )


def _reason(error: BaseException) -> str:
    if type(error) is SMTPException:  # its own words, not the server's
        return "it does not offer what SMTP_URL requires, " + (
            "STARTTLS" if "STARTTLS" in error.message else "a login"
        )
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message})"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
