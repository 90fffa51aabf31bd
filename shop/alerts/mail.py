"""The mail about an alert, and what is posted to a webhook. The same for the same alert and phase, so that a copy is known as one."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC
from email.headerregistry import Address
from email.utils import format_datetime
from typing import Any

from shop.alerts.notices import Notice
from shop.alerts.words import stamp, words
from shop.notifications.message import Mail, message
from shop.notifications.templates import render
from shop.plain import one_line
from shop.settings import Settings


def recipient(s: Settings) -> str:
    """Who hears of alerts."""
    return s.alert_email or s.support_email


def notice_id(notice: Notice) -> str:
    """Made of the alert and the phase."""
    return f"alert-{notice.alert_id}-{notice.phase}-{hashlib.sha256(notice.key.encode()).hexdigest()[:16]}"


def message_id(notice: Notice, s: Settings) -> str:
    return f"<{notice_id(notice)}@{s.shop_email.rpartition('@')[2]}>"


def alert_mail(notice: Notice, s: Settings) -> Mail:
    """What is wrong, since when, the value and the threshold, where to look and what to do; or that it is over."""
    said = words(notice)
    over = notice.phase == "cleared"
    subject = f"[{s.shop_name}] {'over' if over else 'alert'}: {said.title}"
    values = {"over": over, "title": said.title, "what": said.what, "do": said.do, "shop": s.shop_name}
    text, html = render("alert", {**_rows(notice), **values})
    user, _, domain = recipient(s).rpartition("@")
    to = Address("", user, domain)
    headers = {
        "From": str(Address(one_line(s.shop_name, 100), addr_spec=s.shop_email)),
        "To": str(to),
        "Subject": one_line(subject, 200).replace("=?", "= ?"),
        "Date": format_datetime(notice.created_at),
        "Message-ID": message_id(notice, s),
        "Auto-Submitted": "auto-generated",
    }
    if over:
        first = message_id(_raised(notice), s)
        headers |= {"In-Reply-To": first, "References": first}
    return Mail(s.shop_email, to.addr_spec, message(to, headers, text, html))


def posted(notice: Notice) -> dict[str, Any]:
    """For a webhook, and the event's payload. `text` is what chat programs show."""
    said, over = words(notice), notice.phase == "cleared"
    after = (f" Over, because {notice.over_because}." if notice.over_because else "") if over else f" {said.do}"
    return {
        "id": notice_id(notice),
        "type": f"order.alert.{notice.phase}",
        "text": f"{'Over' if over else 'Alert'}: {said.title}. {said.what}{after}",
        "rule": notice.rule,
        "resource": notice.resource,
        "since": notice.since.astimezone(UTC).isoformat(),
        "over_at": notice.over_at.astimezone(UTC).isoformat() if over and notice.over_at else None,
        "over_because": notice.over_because if over else None,
        "value": notice.value,
        "threshold": notice.threshold,
        "details": notice.details,
    }


def _raised(notice: Notice) -> Notice:
    return replace(notice, phase="raised")


def _rows(notice: Notice) -> dict[str, Any]:
    said = words(notice)
    rows = [("Since", stamp(notice.since.astimezone(UTC)))]
    if notice.phase == "cleared" and notice.over_at:
        rows.append(("Over at", stamp(notice.over_at.astimezone(UTC))))
    rows += [("Last value" if notice.phase == "cleared" else "Value", said.value), ("Threshold", said.threshold)]
    if notice.phase == "raised":
        rows.append(("Where to look", said.look))
    return {"rows": rows, "because": notice.over_because}
