"""Telling people of alerts: by mail, on the way that customers' mails take, and to a webhook. At least once, with the same id each time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import httpx
import orjson

from shop.alerts.mail import alert_mail, notice_id, posted
from shop.alerts.notices import Notice, claim, note
from shop.notifications.crm import post
from shop.notifications.ends import POSTING, End
from shop.notifications.maildir import Maildir
from shop.notifications.message import Mail
from shop.points import effect
from shop.settings import Settings, settings

log = logging.getLogger(__name__)

_WRITING = effect("writing a mail about an alert")
_PATIENCE_SECONDS = 20
_HOOK_SECONDS = 10


async def tell_people() -> tuple[int, int]:
    """Sends what is due. Returns how many notices were sent, and how many were not: those are tried again. Raises database trouble only:
    then what is not noted is sent again."""
    s, sent, failed = settings(), 0, 0
    while notices := await claim("mail", "webhook"):
        mails, hooks = [n for n in notices if n.way == "mail"], [n for n in notices if n.way == "webhook"]
        ends = await asyncio.gather(_send_mails(mails, s), _post(hooks, s))
        sent += sum(each for each, _ in ends)
        failed += sum(each for _, each in ends)
    return sent, failed


async def _send_mails(notices: Sequence[Notice], s: Settings) -> tuple[int, int]:
    made: list[tuple[int, Mail]] = []
    for number, notice in enumerate(notices):
        try:
            made.append((number, alert_mail(notice, s)))
        except Exception as error:
            log.exception("no mail could be made of alert %d", notice.alert_id)
            await note([notice], type(error).__name__)
    sent = 0

    async def tell(number: int, end: End) -> bool:
        nonlocal sent
        sent += end.what == "sent"
        await note([notices[number]], None if end.what == "sent" else end.error or end.what)
        return True

    if made and s.smtp_url is not None:
        from shop.notifications.smtp import Handover
        from shop.notifications.smtp_url import smtp_server

        server = smtp_server(s.smtp_url.get_secret_value())
        handover = Handover(server, seconds=s.smtp_timeout_seconds, connections=1, name=s.shop_email.rpartition("@")[2])
        await handover.send(made, tell, until=time.monotonic() + _PATIENCE_SECONDS)
    else:
        maildir = Maildir(s.mail_dir)
        for number, mail in made:
            try:
                with _WRITING:
                    await asyncio.to_thread(maildir.write, f"{notice_id(notices[number])}.eml", mail)
            except OSError as error:
                await tell(number, End("later", f"VAR_DIR: {error.strerror or type(error).__name__}"))
            else:
                await tell(number, End("sent"))
    return sent, len(notices) - sent


async def _post(notices: Sequence[Notice], s: Settings) -> tuple[int, int]:
    if not notices:
        return 0, 0
    if s.alert_webhook_url is None:
        await note(notices, "ALERT_WEBHOOK_URL is not set any more")
        return 0, len(notices)
    sent = 0
    async with httpx.AsyncClient(timeout=_HOOK_SECONDS, follow_redirects=False) as client:
        for notice in notices:
            try:
                body = posted(notice)
            except Exception as wrong:
                log.exception("nothing could be said of alert %d", notice.alert_id)
                error: str | None = type(wrong).__name__
            else:
                error = await _posted(client, s.alert_webhook_url.get_secret_value(), body)
            sent += error is None
            await note([notice], error)
    return sent, len(notices) - sent


async def _posted(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> str | None:
    """How it failed: never with the address, which may be a secret."""
    headers = {"webhook-id": body["id"], "user-agent": "order-saga", "content-type": "application/json"}
    try:
        async with asyncio.timeout(_HOOK_SECONDS):
            with POSTING:
                answer = await post(client, url, orjson.dumps(body), headers)
    except Exception as error:  # noqa: BLE001  (an answer can break the client in many ways; the other alerts must not wait for that)
        return f"the webhook (ALERT_WEBHOOK_URL) does not answer ({type(error).__name__})"
    return None if answer.is_success else f"the webhook (ALERT_WEBHOOK_URL) answered {answer.status_code}"
