"""The message about an alert, and the payload of its Prefect event. Both are the same each time they are
built for an alert and phase."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shop.alerts.description import describe
from shop.alerts.notices import Notice
from shop.runtime.times import shown
from shop.text.sanitize import one_line


@dataclass(frozen=True, slots=True)
class Message:
    """Plain text: apprise converts it to what each service expects."""

    title: str
    body: str


def notice_id(notice: Notice) -> str:
    """Identifies an alert and phase, so that a repeated delivery can be recognized."""
    return f"alert-{notice.alert_id}-{notice.phase}-{hashlib.sha256(notice.key.encode()).hexdigest()[:16]}"


def alert_message(notice: Notice, shop_name: str) -> Message:
    """Describes what is wrong, since when, the value and the threshold, where to look and what to do; or that
    the alert has cleared.

    Raises KeyError and ValueError for a rule that this version does not know.
    """
    text, cleared = describe(notice), notice.phase == "cleared"
    because = f" {notice.over_because}." if notice.over_because else ""
    lines = [f"The alert has cleared.{because} It was: {text.what}" if cleared else text.what, ""]
    lines.append(f"Since: {_time(notice.since)}")
    if cleared and notice.over_at:
        lines.append(f"Cleared at: {_time(notice.over_at)}")
    lines += [f"{'Last value' if cleared else 'Value'}: {text.value}", f"Threshold: {text.threshold}"]
    if not cleared:
        lines += [f"Where to look: {text.look}", f"What to do: {text.do}"]
    title = f"[{shop_name}] {'cleared' if cleared else 'alert'}: {text.title}"
    return Message(one_line(title, 200), "\n".join([*lines, "", f"Id: {notice_id(notice)}"]))


def event_payload(notice: Notice) -> dict[str, Any]:
    """Returns the alert as data. Raises the same as `alert_message`."""
    text, cleared = describe(notice), notice.phase == "cleared"
    because = f" {notice.over_because}." if notice.over_because else ""
    return {
        "id": notice_id(notice),
        "type": f"order.alert.{notice.phase}",
        "text": f"{'Cleared' if cleared else 'Alert'}: {text.title}. "
        f"{text.what}{because if cleared else f' {text.do}'}",
        "rule": notice.rule,
        "resource": notice.resource,
        "since": notice.since.astimezone(UTC).isoformat(),
        "over_at": notice.over_at.astimezone(UTC).isoformat() if cleared and notice.over_at else None,
        "over_because": notice.over_because if cleared else None,
        "value": notice.value,
        "threshold": notice.threshold,
        "details": notice.details,
    }


def _time(when: datetime) -> str:
    return shown(when)
