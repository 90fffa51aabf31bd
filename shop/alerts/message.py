"""The message about an alert, and the payload of its Prefect event. Both are the same each time they are
built for an alert and phase."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, timedelta
from decimal import Decimal
from typing import Any

from shop.alerts.notices import Notice
from shop.alerts.rules import ALL, REST, Rule
from shop.runtime.times import shown
from shop.text.sanitize import one_line
from shop.values.money import show

_STATUS = "order-saga status"
_WORKERS = "Make sure that a worker runs (order-saga worker)"


@dataclass(frozen=True, slots=True)
class Description:
    """The parts of a message about an alert."""

    title: str
    what: str
    value: str
    threshold: str
    look: str
    do: str


def describe(notice: Notice) -> Description:
    """Describes an alert as it was last evaluated. Raises KeyError and ValueError for a rule that this
    version does not know."""
    return _DESCRIBE[Rule(notice.rule)](notice, one_line(notice.subject), notice.details)


def _error_rate(notice: Notice, step: str, details: Mapping[str, Any]) -> Description:
    every = notice.subject == ALL
    codes = ", ".join(f"{count} x {code}" for code, count in details.get("codes", {}).items())
    counts = f"{details['failed']} of {details['commands']} failed in {details['window']}"
    return Description(
        title=f"error rate of {'all steps' if every else step} too high",
        what=f"{'Over all steps' if every else f'In step {step}'}, {counts}."
        + (f" Codes: {codes}." if codes else ""),
        value=f"{notice.value:.1%}",
        threshold=f"{notice.threshold:.1%} (worker_monitoring.error_rate_threshold)",
        look=f"{_STATUS}, and the failed task runs in the Prefect UI",
        do=(
            "Find the most frequent code among the failures, and fix its cause. "
            "Orders that failed are compensated, not lost."
        ),
    )


def _order_waiting(notice: Notice, order: str, details: Mapping[str, Any]) -> Description:
    rest = notice.subject == REST
    return Description(
        title="more orders wait too long" if rest else f"order {order} waits too long",
        what=f"{_more(details)} {_form(details, 'has', 'have')} no outcome yet{_some(details)}."
        if rest
        else f"Order {order} has no outcome yet.",
        value=_duration(notice.value),
        threshold=f"{_duration(notice.threshold)} (ALERT_WAITING_MINUTES)",
        look=f"{_STATUS}, and the runs of process-pending-orders in the Prefect UI",
        do=(
            f"{_WORKERS}, and that the schedules of process-pending-orders and housekeeping are active. "
            "If there are simply too many orders, start more workers."
        ),
    )


def _needs_attention(notice: Notice, order: str, details: Mapping[str, Any]) -> Description:
    rest = notice.subject == REST
    one = f"The compensation of {details.get('step')} of order {order} failed ({details.get('code')})."
    return Description(
        title="more orders need a person" if rest else f"order {order} needs a person",
        what=f"{_more(details)} {_form(details, 'is', 'are')} under manual review{_some(details)}."
        if rest
        else one,
        value=_orders(details) if rest else f"{_amount(notice.value, details)} at risk",
        threshold="none: each one needs a person",
        look="the artifact orders-that-need-attention in the Prefect UI",
        do=(
            "Run the deployment resolve-order for it: retry, hold, or state how it was settled. "
            "It is also retried automatically."
        ),
    )


_SERVICES = {
    "payment-gateway": (
        "the events payment.gateway.unavailable in the Prefect UI",
        "check its status page, or renew its key",
    ),
    "inventory-service": ("the events inventory.service.unavailable in the Prefect UI", "check its logs"),
    "carrier": (
        "the logs of the runs in the Prefect UI that postpone orders",
        "check its status page, or top up its account",
    ),
}
"""Where to look and what to do, by kind of service."""

_OTHER_CAUSES = {
    "infrastructure": (
        "the infrastructure fails",
        "A disk, the memory, the network or the database's tables fail the workers.",
        "the logs of the runs in the Prefect UI: they name the error",
        "Fix what the error names: free disk space, run the migrations, open the network.",
    ),
    "worker-of-another-version": (
        "no worker of another version is running",
        "Workers of this version lack a step that the orders have begun, and skip them.",
        "the logs of process-pending-orders in the Prefect UI: they name the step",
        (
            "Start a worker of the version that has the step, "
            "or put the step back into the saga's table of steps."
        ),
    ),
}


def _external_unavailable(_notice: Notice, subject: str, details: Mapping[str, Any]) -> Description:
    kind, _, name = subject.partition(".")
    waiting = f"{_orders(details)} {_form(details, 'waits', 'wait')}"
    if kind in _OTHER_CAUSES:
        title, what, look, do = _OTHER_CAUSES[kind]
        safe = "Nothing is decided about the orders meanwhile; they continue automatically."
        return Description(
            title,
            f"{what} {waiting}{_some(details)}.",
            waiting,
            "none waits for longer than one pause",
            look,
            f"{do} {safe}",
        )
    service = f"the {kind.replace('-', ' ')}" + (f" ({name})" if name else "")
    look, do = _SERVICES[kind]
    postponed = (
        f"{_orders(details)} that {_form(details, 'needs it is', 'need it are')} postponed{_some(details)}"
    )
    return Description(
        title=f"{service} is unavailable",
        what=(
            f"{service[0].upper()}{service[1:]} does not answer, or refuses access, "
            f"and is not called for now. {postponed}."
        ),
        value=waiting,
        threshold="none waits for longer than one pause of the circuit breaker",
        look=f"order-saga check, and {look}",
        do=(
            f"Bring it back: {do}. The orders continue automatically as soon as it answers; "
            "nothing is lost or charged twice."
        ),
    )


def _recovery_behind(notice: Notice, order: str, details: Mapping[str, Any]) -> Description:
    rest = notice.subject == REST
    what = f"The worker of order {order} died, and no other has taken the order over."
    if rest:
        what = (
            f"{_more(details)} lost {_form(details, 'its', 'their')} worker{_some(details)}, "
            f"and no other has taken {_form(details, 'it', 'them')} over."
        )
    return Description(
        title="recovery does not keep up" if rest else f"no worker has taken over order {order}",
        what=what,
        value=f"{_duration(notice.value)} since {'the oldest' if rest else 'its'} lease expired",
        threshold=f"{_duration(notice.threshold)} (ALERT_RECOVERY_SECONDS)",
        look="the runs of process-pending-orders and housekeeping in the Prefect UI",
        do=f"{_WORKERS}, and that the schedules of both are active and their runs do not fail.",
    )


_DESCRIBE: dict[Rule, Callable[[Notice, str, Mapping[str, Any]], Description]] = {
    Rule.ERROR_RATE: _error_rate,
    Rule.ORDER_WAITING: _order_waiting,
    Rule.NEEDS_ATTENTION: _needs_attention,
    Rule.EXTERNAL_UNAVAILABLE: _external_unavailable,
    Rule.RECOVERY_BEHIND: _recovery_behind,
}


def _orders(details: Mapping[str, Any]) -> str:
    return f"{details['orders']:,} {_form(details, 'order', 'orders')}"


def _more(details: Mapping[str, Any]) -> str:
    return f"{details['orders']:,} more {_form(details, 'order', 'orders')}"


def _form(details: Mapping[str, Any], one: str, many: str) -> str:
    return one if details["orders"] == 1 else many


def _some(details: Mapping[str, Any]) -> str:
    """Names all of the orders, or some as examples."""
    named = [one_line(str(each), 60) for each in details.get("for_example", [])]
    if not named:
        return ""
    return f" ({'' if len(named) == details['orders'] else 'such as '}{', '.join(named)})"


def _amount(value: float, details: Mapping[str, Any]) -> str:
    return show(Decimal(str(round(value, 6))), str(details.get("currency", "USD")))


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


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
    lines.append(f"Since: {shown(notice.since)}")
    if cleared and notice.over_at:
        lines.append(f"Cleared at: {shown(notice.over_at)}")
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
