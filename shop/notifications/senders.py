"""The ways that messages take: into the Maildir, to the mail server, to the CRM."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from saga.clock import Clock, database_time
from saga.failpoints import failpoint
from shop.notifications.delivery_log import LOG_SECONDS, DeliveryLog
from shop.notifications.delivery_result import DATA_SECONDS, SENT, DeliveryResult
from shop.notifications.kinds import REPORT, Kind, split
from shop.notifications.mail import About, mail
from shop.notifications.maildir import Maildir, mail_names
from shop.notifications.message import Mail
from shop.notifications.webhook_key import webhook_key
from shop.orders.order import read_stored
from shop.runtime.extras import MissingExtra
from shop.runtime.installation import Installation, installation
from shop.settings import Settings
from shop.shipping.labels.printing import print_label

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 20
"""After so long a batch begins with no further message; the rest is another batch's."""
_LABEL, _MAIL = failpoint("printing a label"), failpoint("writing a mail")


def longest(s: Settings) -> float:
    """Seconds that a batch can take, until its last end is noted: nobody else may send its messages before."""
    mails = 3 * s.smtp.timeout_seconds + max(DATA_SECONDS, s.smtp.timeout_seconds) if s.smtp.url else 0
    hooks = 2 * s.crm.timeout_seconds if s.crm.webhook_url else 0
    return PATIENCE_SECONDS + LOG_SECONDS + max(mails, hooks)


async def send(rows: Sequence[Any], s: Settings, delivery_log: DeliveryLog, until: float) -> None:
    """Sends the outbox's rows, mails and webhooks side by side, and notes how each ended. None is begun after `until`."""
    mails, hooks, unknown = _sorted(rows)
    us = await installation()
    ways: list[Awaitable[Any]] = []
    if mails:
        ways.append(_by_smtp(mails, s, us, delivery_log, until) if s.smtp.url else _into_maildir(mails, s, us, delivery_log))
    if hooks:
        ways.append(_to_crm(hooks, s, us, delivery_log, until))
    if unknown:
        ways.append(delivery_log.many({row["id"]: DeliveryResult("later", "this version knows no such message") for row in unknown}))
    for end in await asyncio.gather(*ways, return_exceptions=True):  # what goes wrong on one way does not stop the others
        if isinstance(end, BaseException):
            raise end


def _sorted(rows: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    mails: list[Any] = []
    hooks: list[Any] = []
    unknown: list[Any] = []
    for row in rows:
        try:
            (hooks if row["kind"] != REPORT and split(row["kind"])[1] else mails).append(row)
        except ValueError:
            unknown.append(row)
    return mails, hooks, unknown


async def _into_maildir(rows: Sequence[Any], s: Settings, us: Installation, delivery_log: DeliveryLog) -> None:
    maildir = Maildir(s.mail_dir)

    def write(row: Any) -> DeliveryResult:
        made = _made(row, s, us)
        with _MAIL:
            name, *before = mail_names(row["order_id"], row["kind"])
            maildir.write(name, made, before=before)
        return SENT

    # a disk that hangs must not stop the orders under way
    await delivery_log.many(await asyncio.to_thread(lambda: {row["id"]: _trying(row, write) for row in rows}))


async def _by_smtp(rows: Sequence[Any], s: Settings, us: Installation, delivery_log: DeliveryLog, until: float) -> None:
    from shop.notifications.smtp import Handover
    from shop.notifications.smtp_url import smtp_server

    made: list[tuple[int, Mail]] = []

    def make(row: Any) -> DeliveryResult:
        made.append((row["id"], _made(row, s, us)))
        return SENT

    ends = await asyncio.to_thread(lambda: {row["id"]: _trying(row, make) for row in rows})
    if broken := {number: end for number, end in ends.items() if end is not SENT}:
        await delivery_log.many(broken)
    server = smtp_server(s.smtp.url.get_secret_value() if s.smtp.url else "")
    handover = Handover(server, seconds=s.smtp.timeout_seconds, connections=s.smtp.connections, name=s.shop.email.rpartition("@")[2])
    await handover.send(made, delivery_log.one, until=until)


async def _to_crm(rows: Sequence[Any], s: Settings, us: Installation, delivery_log: DeliveryLog, until: float) -> None:
    from shop.notifications.crm import Receiver, webhook

    if s.crm.webhook_url is None or s.crm.webhook_secret is None:
        await delivery_log.many({row["id"]: DeliveryResult("later", "CRM_WEBHOOK_URL is not set any more") for row in rows})
        return
    hooks = [
        (row["id"], webhook(row["order_id"], split(row["kind"])[0], row["created_at"], row["payload"], _mark(row, us))) for row in rows
    ]
    key, clock = webhook_key(s.crm.webhook_secret.get_secret_value()), Clock(await database_time())
    receiver = Receiver(s.crm.webhook_url, key, seconds=s.crm.timeout_seconds, clock=clock)
    await receiver.send(hooks, delivery_log.one, until=until)


def _trying(row: Any, do: Callable[[Any], DeliveryResult]) -> DeliveryResult:
    try:
        return do(row)
    except Exception as error:
        log.exception("the %s of order %s could not be sent; it is tried again", row["kind"], row["order_id"])
        # another error's text may hold the customer's data
        return DeliveryResult("later", str(error) if isinstance(error, MissingExtra) else type(error).__name__)


def _mark(row: Any, us: Installation) -> str:
    """What an earlier version made due may have been sent already, and keeps its id."""
    return us.id if row["created_at"] >= us.made_at else ""


def _made(row: Any, s: Settings, us: Installation) -> Mail:
    if row["kind"] == REPORT:
        from shop.monitoring.dashboard.report_mail import report_mail

        return report_mail(row["order_id"], row["payload"], s, row["created_at"], _mark(row, us))
    order, kind = read_stored(row["content"]), Kind(row["kind"])
    if kind is Kind.CONFIRMATION:
        with _LABEL:
            print_label(order, row["payload"], s)  # before the customer hears of the parcel
    return mail(order, kind, {**row["payload"], "confirmation": row["confirmation"]}, About(s, row["created_at"], _mark(row, us)))
