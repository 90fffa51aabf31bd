"""Delivers alerts to the services in `ALERT_URLS`, through apprise: at least once, each service on its own,
with time limits."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from saga.failpoints import failpoint
from shop.alerts.message import Message, alert_message
from shop.alerts.notices import Notice, claim, is_due, note
from shop.alerts.settings import split_urls
from shop.monitoring.masking import MASKED, mask, parts_of_url
from shop.settings import Settings, settings

log = logging.getLogger(__name__)
SEND_SECONDS = 20.0
"""Limits the delivery of one message to one service, in seconds, including the start of the sender
process. apprise limits only single reads."""
_TOO_SLOW = "no answer in time"
_REASON = 300
"""Limits the recorded reason of a failure, in characters."""
_SENDER = Path(__file__).with_name("sender.py")
_SENDING = failpoint("sending an alert")


def destinations(s: Settings) -> dict[str, str]:
    """Returns the services by the name that the database has for them, which is not secret: `url-1` is the
    first of `ALERT_URLS`."""
    given = split_urls(s.alerts.urls.get_secret_value()) if s.alerts.urls else ()
    return {f"url-{number}": url for number, url in enumerate(given, 1)}


async def delivery_is_due(waited: float) -> bool:
    """Returns whether a notice for one of the services has been due for this many seconds."""
    return await is_due(*destinations(settings()), waited=waited)


async def deliver() -> tuple[int, int]:
    """Delivers the notices that are due. Returns how many were delivered, and how many failed and will be
    retried.

    Raises only database errors; notices whose result was not recorded are delivered again.
    """
    s = settings()
    services, delivered, failed = destinations(s), 0, 0
    while services and (notices := await claim(*services)):
        ended = await asyncio.gather(
            *(
                _deliver_to(service, url, [n for n in notices if n.way == service], s)
                for service, url in services.items()
            )
        )
        delivered += sum(ended)
        failed += len(notices) - sum(ended)
    return delivered, failed


async def _deliver_to(service: str, url: str, notices: Sequence[Notice], s: Settings) -> int:
    """Delivers notices to one service, in order, and records each result. Returns how many were delivered."""
    delivered, failure = 0, None
    for notice in notices:
        if failure != _TOO_SLOW:  # a slow service would also be too slow for the next one
            failure = await _deliver_one(url, notice, s)
        delivered += failure is None
        await note([notice], failure and _reason(service, url, failure, s))
    return delivered


async def _deliver_one(url: str, notice: Notice, s: Settings) -> str | None:
    """Returns None, or why the message was not sent."""
    try:
        message = alert_message(notice, s.shop.name)
    except Exception as error:
        log.exception("alert %d cannot be described", notice.alert_id)
        return type(error).__name__
    with _SENDING:
        return await asyncio.to_thread(_send, url, message)


def _send(url: str, message: Message) -> str | None:
    """Runs `shop.alerts.sender`, at most `SEND_SECONDS`. Returns None, or why nothing was sent."""
    command, given = [sys.executable, "-P", str(_SENDER)], json.dumps([url, message.title, message.body])
    try:
        ended = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=SEND_SECONDS, check=True
        )
    except subprocess.TimeoutExpired:
        return _TOO_SLOW
    except (OSError, subprocess.CalledProcessError) as error:
        return f"the sender process failed ({type(error).__name__})"
    failure: str | None = json.loads(ended.stdout)
    return failure


def _reason(service: str, url: str, failure: str, s: Settings) -> str:
    """Contains no part of the URL, even if `mask` does not know that it is secret."""
    for part in sorted(parts_of_url(url), key=len, reverse=True):
        failure = failure.replace(part, MASKED)
    return f"entry {service.removeprefix('url-')} of ALERT_URLS: {mask(failure, s)[:_REASON]}"
