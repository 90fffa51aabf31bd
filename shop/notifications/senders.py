"""Sends messages by their channels: to the Maildir, to the mail server, or to the CRM."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from saga.clock import Clock, database_time
from saga.failpoints import failpoint
from shop.notifications.delivery_log import (
    DATA_SECONDS,
    LOG_SECONDS,
    SENT,
    UNTRIED,
    DeliveryLog,
    DeliveryResult,
)
from shop.notifications.kinds import REPORT, Kind, split
from shop.notifications.maildir import Maildir, mail_names
from shop.notifications.message import Mail
from shop.notifications.settings import webhook_key
from shop.notifications.stored import build_mail, installation_mark
from shop.orders.order import read_stored
from shop.runtime.extras import MissingExtra
from shop.runtime.installation import Installation, installation
from shop.settings import Settings
from shop.shipping.carriers import EMBEDDED
from shop.shipping.labels.stored import fetch_label

log = logging.getLogger(__name__)

SENDING_SECONDS = 20
"""Time after which a batch starts no further message, in seconds. Another batch sends the rest."""
_HANDOVER_SECONDS = SENDING_SECONDS / 2
"""The part of this time in which no further mail is built, in seconds: those that are built are sent."""
_MAIL = failpoint("writing a mail")


def max_batch_seconds(s: Settings) -> float:
    """Returns how long a batch can take until its last result is recorded, in seconds. Its messages are
    claimed for that time."""
    mails = 3 * s.smtp.timeout_seconds + max(DATA_SECONDS, s.smtp.timeout_seconds) if s.smtp.url else 0
    hooks = 2 * s.crm.timeout_seconds if s.crm.webhook_url else 0
    return SENDING_SECONDS + LOG_SECONDS + max(mails, hooks)


async def send(rows: Sequence[Any], s: Settings, delivery_log: DeliveryLog, until: float) -> None:
    """Sends the outbox's rows, mails and webhooks concurrently, and records the results. Starts none after
    `until`."""
    mails, hooks, unknown = _by_channel(rows)
    own = await installation()
    deliveries: list[Awaitable[Any]] = []
    if mails:
        deliveries.append(
            _by_smtp(mails, s, own, delivery_log, until)
            if s.smtp.url
            else _into_maildir(mails, s, own, delivery_log)
        )
    if hooks:
        deliveries.append(_to_crm(hooks, s, own, delivery_log, until))
    if unknown:
        not_known = DeliveryResult("later", "this version does not know this kind of message")
        deliveries.append(delivery_log.record_all({row["id"]: not_known for row in unknown}))
    # A failure of one does not stop the others.
    for result in await asyncio.gather(*deliveries, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _by_channel(rows: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    mails: list[Any] = []
    hooks: list[Any] = []
    unknown: list[Any] = []
    for row in rows:
        try:
            (hooks if row["kind"] != REPORT and split(row["kind"])[1] else mails).append(row)
        except ValueError:
            unknown.append(row)
    return mails, hooks, unknown


async def _into_maildir(
    rows: Sequence[Any], s: Settings, own: Installation, delivery_log: DeliveryLog
) -> None:
    maildir = Maildir(s.mail_dir)

    def write(row: Any) -> DeliveryResult:
        built = _mail(row, s, own)
        with _MAIL:
            name, *before = mail_names(row["order_id"], row["kind"], row["try_number"])
            maildir.write(name, built, before=before)
        return SENT

    # In a thread, so that a disk that hangs does not block orders.
    await delivery_log.record_all(
        await asyncio.to_thread(lambda: {row["id"]: _attempt(row, write) for row in rows})
    )


async def _by_smtp(
    rows: Sequence[Any], s: Settings, own: Installation, delivery_log: DeliveryLog, until: float
) -> None:
    """Sends the mails; last those whose label has to be fetched from a carrier, which may take long."""
    from shop.notifications.settings import smtp_server
    from shop.notifications.smtp import Handover

    handover = Handover(
        smtp_server(s.smtp.url.get_secret_value() if s.smtp.url else ""),
        seconds=s.smtp.timeout_seconds,
        connections=s.smtp.connections,
        name=s.shop.email.rpartition("@")[2],
    )
    parts: tuple[list[Any], list[Any]] = [], []
    for row in rows:
        parts[row["payload"].get("booked_at", EMBEDDED) != EMBEDDED].append(row)
    for part in filter(None, parts):
        mails, not_built = await asyncio.to_thread(_build_all, part, s, own, until - _HANDOVER_SECONDS)
        if not_built:
            await delivery_log.record_all(not_built)
        await handover.send(mails, delivery_log.record, until=until)


def _build_all(
    rows: Sequence[Any], s: Settings, own: Installation, until: float
) -> tuple[list[tuple[int, Mail]], dict[int, DeliveryResult]]:
    """Builds the mails, and begins none after `until`. Returns them, and the results of the others."""
    mails: dict[int, Mail] = {}

    def build(row: Any) -> DeliveryResult:
        mails[row["id"]] = _mail(row, s, own)
        return SENT

    results = {row["id"]: _attempt(row, build) if time.monotonic() < until else UNTRIED for row in rows}
    return [*mails.items()], {number: each for number, each in results.items() if each is not SENT}


async def _to_crm(
    rows: Sequence[Any], s: Settings, own: Installation, delivery_log: DeliveryLog, until: float
) -> None:
    from shop.notifications.crm import Receiver, webhook

    if s.crm.webhook_url is None or s.crm.webhook_secret is None:
        not_set = DeliveryResult("later", "CRM_WEBHOOK_URL or CRM_WEBHOOK_SECRET is not set any more")
        await delivery_log.record_all({row["id"]: not_set for row in rows})
        return
    hooks = [
        (
            row["id"],
            webhook(
                row["order_id"],
                split(row["kind"])[0],
                row["created_at"],
                row["payload"],
                installation_mark(row, own),
                row["try_number"],
            ),
        )
        for row in rows
    ]
    key, clock = webhook_key(s.crm.webhook_secret.get_secret_value()), Clock(await database_time())
    receiver = Receiver(s.crm.webhook_url, key, seconds=s.crm.timeout_seconds, clock=clock)
    await receiver.send(hooks, delivery_log.record, until=until)


def _attempt(row: Any, do: Callable[[Any], DeliveryResult]) -> DeliveryResult:
    try:
        return do(row)
    except Exception as error:
        log.exception(
            "the %s of order %s could not be sent; it is retried later", row["kind"], row["order_id"]
        )
        # the text of any other error may contain customer data
        return DeliveryResult(
            "later", str(error) if isinstance(error, MissingExtra) else type(error).__name__
        )


def _mail(row: Any, s: Settings, own: Installation) -> Mail:
    if row["kind"] == Kind.CONFIRMATION:
        fetch_label(read_stored(row["content"]), row["payload"], s)  # before the customer knows of the parcel
    return build_mail(row, s, own)
