"""Delivers alerts to the services in `ALERT_URLS`, through apprise: at least once, each service on its own,
with time limits."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import text

from saga.database import transaction
from saga.failpoints import failpoint
from shop.alerts.message import Message, alert_message
from shop.alerts.settings import split_urls
from shop.monitoring.masking import MASKED, mask, parts_of_url
from shop.settings import Settings, settings

EVENT = "event"
"""The delivery as a Prefect event; the other destinations are `url-1`, `url-2`, ...: the entries of
`ALERT_URLS`."""
_MOST = 10
_CLAIM_SECONDS = 300
"""Claim duration in seconds, longer than delivering `_MOST` notices can take. Then another worker may
deliver them."""
_CLAIMING, _NOTING = (
    failpoint("the commit of claiming notices of alerts"),
    failpoint("the commit of delivered notices of alerts"),
)
# The end of an alert is delivered after its beginning.
_DUE = """
    n.sent_at IS NULL AND n.way = ANY(CAST(:ways AS text[]))
    AND n.next_attempt_at <= now() - make_interval(secs => :waited)
    AND (n.phase = 'raised' OR NOT EXISTS (
        SELECT 1 FROM alert_notice b
        WHERE b.alert_id = n.alert_id AND b.way = n.way AND b.phase = 'raised' AND b.sent_at IS NULL))
"""
_IS_DUE = text(f"SELECT EXISTS (SELECT 1 FROM alert_notice n WHERE {_DUE})")  # noqa: S608  (a constant)
_CLAIM = text(
    f"""
    WITH due AS (
        SELECT n.alert_id, n.phase, n.way FROM alert_notice n WHERE {_DUE}
        ORDER BY n.created_at, n.alert_id LIMIT :most FOR UPDATE SKIP LOCKED
    )
    UPDATE alert_notice n
    SET attempts = n.attempts + 1, next_attempt_at = now() + make_interval(secs => :claim)
    FROM due, alert a
    WHERE n.alert_id = due.alert_id AND n.phase = due.phase AND n.way = due.way AND a.id = n.alert_id
    RETURNING n.alert_id, n.phase, n.way, n.created_at, n.attempts, a.rule, a.subject, a.resource, a.since,
        a.value, a.threshold, a.details, a.over_at, a.over_because
    """  # noqa: S608
)
_SENT = text(
    "UPDATE alert_notice SET sent_at = now(), error = NULL "
    "WHERE alert_id = :alert_id AND phase = :phase AND way = :way AND sent_at IS NULL"
)
_RETRY_LATER = text(
    "UPDATE alert_notice SET error = :error, "
    "next_attempt_at = now() + make_interval(secs => 30 * power(2, least(attempts - 1, 7))) "
    "WHERE alert_id = :alert_id AND phase = :phase AND way = :way AND sent_at IS NULL"
)


@dataclass(frozen=True, slots=True)
class Notice:
    """One delivery: the beginning or the end of an alert, to one destination."""

    alert_id: int
    phase: Literal["raised", "cleared"]
    way: str
    created_at: datetime
    attempts: int
    rule: str
    subject: str
    resource: str
    since: datetime
    value: float
    """At the last evaluation."""
    threshold: float
    details: dict[str, Any]
    over_at: datetime | None
    over_because: str | None

    @property
    def key(self) -> str:
        """Unique per alert and phase."""
        return f"{self.alert_id}\n{self.phase}\n{self.rule}\n{self.subject}\n{self.since.timestamp()}"


async def is_due(*ways: str, waited: float = 0) -> bool:
    """Returns whether a notice for one of these destinations has been due for `waited` seconds."""
    async with transaction() as tx:
        return bool((await tx.execute(_IS_DUE, {"ways": list(ways), "waited": waited})).scalar())


async def claim(*ways: str) -> list[Notice]:
    """Claims notices that are due, the oldest first. Notices of a worker that dies are delivered again
    some minutes later."""
    async with transaction(_CLAIMING) as tx:
        rows = (
            await tx.execute(
                _CLAIM, {"ways": list(ways), "waited": 0.0, "most": _MOST, "claim": _CLAIM_SECONDS}
            )
        ).mappings()
        return sorted(
            (Notice(**row) for row in rows), key=lambda notice: (notice.created_at, notice.alert_id)
        )


async def note(notices: Sequence[Notice], error: str | None = None) -> None:
    """Records that notices were delivered, or why not: then they are retried after 30 s, 1 min, 2 min, up
    to about an hour."""
    async with transaction(_NOTING) as tx:
        for notice in notices:
            which = {"alert_id": notice.alert_id, "phase": notice.phase, "way": notice.way}
            if error is None:
                await tx.execute(_SENT, which)
            else:
                await tx.execute(_RETRY_LATER, {**which, "error": error})
    if error is not None and notices:
        log.warning("%d alert notices were not delivered (%s) and will be retried", len(notices), error)


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
