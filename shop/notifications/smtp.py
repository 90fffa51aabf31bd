"""Handing mails to a mail server: one connection for many mails, a few side by side, each answer told at once.

A mail counts as sent when the server has said yes after its text. Between the text and that yes lies what SMTP cannot settle: a
connection that breaks there leaves open whether the mail was taken. It is sent again then, with the same Message-ID, by which mail programs
and servers can tell that it is the same; some show it twice all the same.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from collections import deque
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

from shop.notifications.delivery_result import DATA_SECONDS, HANDING_OVER, SENT, UNTRIED, DeliveryResult, Tell
from shop.notifications.message import Mail
from shop.notifications.smtp_url import SmtpServer

log = logging.getLogger(__name__)

_CLOSING = 421
_TOO_BIG = 552
_LOGIN_FIRST = 530
_NOT_LET_IN = re.compile(r"\brelay|\b(?:un)?authenticat", re.IGNORECASE)
"""Postfix and others refuse so at each recipient, when they do not know us: that is about no recipient."""
_ADDRESS = re.compile(r"<[^<>]*>|(?<![^\s@])[^\s@]++@\S*+")
"""Of the recipient, whom a refusal names: a word in it says nothing."""
_MAX_REPLY = 1_000
"""Characters of a server's reply that are read."""
_STARTTLS = {"required": True, "never": False, "if-offered": None}
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}(?!\S)")


class ServerTrouble(Exception):
    """It is not this mail: no other one would be taken just now either. Says which setting to look at."""


class Handover:
    """One batch. `seconds`: for connecting, and for the commands of one mail."""

    def __init__(self, server: SmtpServer, *, seconds: float, connections: int, name: str) -> None:
        self._server, self._seconds, self._connections, self._name = server, seconds, connections, name
        self._trouble: DeliveryResult | None = None
        self._stopped = False

    async def send(self, mails: Sequence[tuple[int, Mail]], tell: Tell, *, until: float) -> None:
        """Tells of each mail how it ended. None is begun after `until` (`time.monotonic()`), nor when the server is in trouble."""
        waiting = deque(mails)
        lines = [asyncio.create_task(self._line(waiting, tell, until)) for _ in range(min(self._connections, len(mails)))]
        try:
            await asyncio.gather(*lines)
        finally:
            for line in lines:
                line.cancel()
            await asyncio.gather(*lines, return_exceptions=True)
        for number, _ in waiting:
            await tell(number, self._trouble or UNTRIED)

    async def _line(self, waiting: deque[tuple[int, Mail]], tell: Tell, until: float) -> None:
        connection = _Connection(self._server, self._seconds, self._name)
        try:
            while waiting and self._trouble is None and not self._stopped and time.monotonic() < until:
                number, mail = waiting.popleft()
                try:
                    end = await connection.send(mail)
                except ServerTrouble as trouble:
                    end = self._trouble = self._trouble or _stopped_by(trouble)
                self._stopped |= not await tell(number, end)
        finally:
            await connection.close()


def _stopped_by(trouble: ServerTrouble) -> DeliveryResult:
    log.error("no mail can be sent: %s; they are tried again later", trouble)
    return DeliveryResult("later", str(trouble))


async def greet(server: SmtpServer, *, seconds: float, name: str) -> None:
    """Connects and logs in as for a mail, and sends none. Raises `ServerTrouble`."""
    connection = _Connection(server, seconds, name)
    try:
        await connection.open()
    finally:
        await connection.close()


class _Connection:
    """Opened with the first mail, and again when the server has closed it between two."""

    def __init__(self, server: SmtpServer, seconds: float, name: str) -> None:
        self._server, self._seconds, self._name = server, seconds, name
        self._client: SMTP | None = None
        self._fresh = True

    async def send(self, mail: Mail) -> DeliveryResult:
        """How it ended for this mail. Raises `ServerTrouble` if it is not this mail's matter."""
        while True:
            client = await self.open()
            used, self._fresh = not self._fresh, False
            try:
                return await self._hand_over(client, mail)
            except _Broken as broken:
                await self.close()
                if not used:
                    return DeliveryResult("later", f"the connection broke ({broken})")

    async def _hand_over(self, client: SMTP, mail: Mail) -> DeliveryResult:
        try:
            async with asyncio.timeout(self._seconds):
                if client.is_ehlo_or_helo_needed:
                    await client.ehlo()
                if mail.international and not client.supports_extension("smtputf8"):
                    return DeliveryResult("refused", "the mail server takes no addresses beyond ASCII (SMTPUTF8)")
                await client.mail(mail.sender, options=["SMTPUTF8"] if mail.international else [], encoding="utf-8")
                await client.rcpt(mail.recipient, encoding="utf-8")
        except SMTPResponseException as no:
            return await self._refused(client, no)
        except (SMTPException, OSError, TimeoutError) as error:
            raise _Broken(type(error).__name__) from None
        try:
            async with asyncio.timeout(max(DATA_SECONDS, self._seconds)):
                with HANDING_OVER:
                    await client.data(mail.data)
        except SMTPResponseException as no:
            return await self._refused(client, no)
        except (SMTPException, OSError, TimeoutError) as error:
            await self.close()
            return DeliveryResult("unclear", f"no answer after the mail was sent ({type(error).__name__}): it may have arrived")
        return SENT

    async def _refused(self, client: SMTP, no: SMTPResponseException) -> DeliveryResult:
        """Sorts a no: this mail's, for now or for good, or everybody's."""
        said = _said(no)
        if no.code == _CLOSING:
            await self.close()
            raise ServerTrouble(f"the mail server (SMTP_URL) closes the connection ({said})")
        if isinstance(no, SMTPSenderRefused) and no.code >= 500 and no.code != _TOO_BIG:
            await self.close()
            raise ServerTrouble(f"the mail server refuses the sender: look at SHOP_EMAIL and the login in SMTP_URL ({said})")
        if isinstance(no, SMTPRecipientRefused) and _lets_nobody_in(no):
            await self.close()
            raise ServerTrouble(f"the mail server takes no mail to others from us: look at the login in SMTP_URL ({said})")
        with suppress(SMTPException, OSError, TimeoutError):
            async with asyncio.timeout(self._seconds):
                await client.rset()
        return DeliveryResult("refused" if no.code >= 500 else "later", f"the mail server said {said}")

    async def open(self) -> SMTP:
        """Unless it is open. Raises `ServerTrouble`."""
        if self._client is not None and self._client.is_connected:
            return self._client
        await self.close()
        try:
            async with asyncio.timeout(self._seconds):
                self._client, self._fresh = await self._connected(), True
        except SMTPAuthenticationError as no:
            raise ServerTrouble(f"the mail server refuses the login in SMTP_URL ({_said(no)})") from None
        except SMTPResponseException as no:
            raise ServerTrouble(f"the mail server (SMTP_URL) takes nobody just now ({_said(no)})") from None
        except (SMTPException, OSError, TimeoutError) as error:
            raise ServerTrouble(f"the mail server (SMTP_URL) cannot be used: {_why(error)}") from None
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
            timeout=max(DATA_SECONDS, self._seconds),  # shorter ones are set where they belong
        )
        try:
            await client.connect()
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


class _Broken(Exception):
    """The connection, before the mail's text was sent: it cannot have arrived."""


@lru_cache
def _tls(ca: str | None) -> ssl.SSLContext:
    """Loading the system's certificates takes a tenth of a second. OSError if the file is not there."""
    return ssl.create_default_context(cafile=ca)


def _said(no: SMTPResponseException) -> str:
    """The codes only: the words may hold the customer's address."""
    enhanced = _ENHANCED.match(no.message or "")
    return f"{no.code} {enhanced[0]}" if enhanced else str(no.code)


def _lets_nobody_in(no: SMTPResponseException) -> bool:
    """Whether it is about us: of what has an enhanced code, only what that calls a matter of policy (5.7.x)."""
    words = (no.message or "")[:_MAX_REPLY]
    enhanced = _ENHANCED.match(words)
    about_us = enhanced is None or enhanced[0].split(".")[1] == "7"
    return no.code == _LOGIN_FIRST or (about_us and _NOT_LET_IN.search(_ADDRESS.sub(" ", words)) is not None)


def _why(error: BaseException) -> str:
    if type(error) is SMTPException:  # its own words, not the server's
        return "it does not offer what SMTP_URL asks for, " + ("STARTTLS" if "STARTTLS" in error.message else "a login")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({cause.verify_message})"
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
