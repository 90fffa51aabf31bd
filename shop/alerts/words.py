"""An alert in words, for people: what is wrong, how much, where to look, what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from shop.alerts.notices import Notice
from shop.alerts.rules import ALL, REST, Rule
from shop.money import show
from shop.plain import one_line

_STATUS = "python -m deployments.status"
_WORKERS = "See that a worker runs (python -m deployments.worker)"


@dataclass(frozen=True, slots=True)
class Words:
    """What a mail about it says."""

    title: str
    what: str
    value: str
    threshold: str
    look: str
    do: str


def words(notice: Notice) -> Words:
    """Of an alert, as it was last judged. KeyError and ValueError for a rule that this version does not know."""
    return _WORDS[Rule(notice.rule)](notice, one_line(notice.subject), notice.details)


def stamp(when: datetime) -> str:
    """`when`: in UTC."""
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def _error_rate(notice: Notice, step: str, details: Mapping[str, Any]) -> Words:
    every = notice.subject == ALL
    codes = ", ".join(f"{count} x {code}" for code, count in details.get("codes", {}).items())
    counts = f"{details['failed']} of {details['commands']} failed in {details['window']}"
    return Words(
        title=f"error rate of {'all steps' if every else step} too high",
        what=f"{'Over all steps' if every else f'In step {step}'}, {counts}." + (f" Codes: {codes}." if codes else ""),
        value=f"{notice.value:.1%}",
        threshold=f"{notice.threshold:.1%} (worker_monitoring.error_rate_threshold)",
        look=f"{_STATUS}, and the failed task runs in the Prefect UI",
        do="Find the code that is most frequent among the failures, and mend what it names. Orders that failed are undone, not lost.",
    )


def _order_waiting(notice: Notice, order: str, details: Mapping[str, Any]) -> Words:
    rest = notice.subject == REST
    return Words(
        title="more orders wait too long" if rest else f"order {order} waits too long",
        what=f"{_more(details)} {_form(details, 'has', 'have')} no outcome yet{_some(details)}."
        if rest
        else f"Order {order} has no outcome yet.",
        value=_time(notice.value),
        threshold=f"{_time(notice.threshold)} (ALERT_WAITING_MINUTES)",
        look=f"{_STATUS}, and the runs of process-pending-orders in the Prefect UI",
        do=f"{_WORKERS}, and that the schedules of process-pending-orders and recover-orders are on. If there are just too many orders, "
        "start more workers.",
    )


def _needs_attention(notice: Notice, order: str, details: Mapping[str, Any]) -> Words:
    rest = notice.subject == REST
    one = f"The compensation of {details.get('step')} of order {order} could not be done ({details.get('code')})."
    return Words(
        title="more orders need a person" if rest else f"order {order} needs a person",
        what=f"{_more(details)} {_form(details, 'is', 'are')} on the desk{_some(details)}." if rest else one,
        value=_orders(details) if rest else f"{_amount(notice.value, details)} at risk",
        threshold="none: each one needs a person",
        look="the artifact orders-that-need-attention in the Prefect UI",
        do="Run the deployment resolve-order for it: try again, hold it, or say how it was settled. It is also tried again by itself.",
    )


_AWAY = {
    "payment-gateway": ("the events payment.gateway.unavailable in the Prefect UI", "look at its status page, or set its key anew"),
    "inventory-service": ("the events inventory.service.unavailable in the Prefect UI", "look at its logs"),
    "carrier": ("the runs in the Prefect UI that put orders off: their logs say why", "look at its status page, or top up its account"),
}
"""Where to look, and what to do, by what is away."""


_NOT_OUTSIDE = {
    "infrastructure": (
        "the infrastructure fails",
        "A disk, the memory, the network or the database's tables fail the workers.",
        "the logs of the runs in the Prefect UI: they name the error",
        "Mend what the error names: make room on the disk, run the migrations, open the network.",
    ),
    "worker-of-another-version": (
        "no worker of another version is there",
        "Workers of this version lack a step that the orders have begun, and leave them alone.",
        "the logs of process-pending-orders in the Prefect UI: they name the step",
        "Start a worker of the version that has the step, or put the step back into flows/saga.py.",
    ),
}


def _outside_away(_notice: Notice, subject: str, details: Mapping[str, Any]) -> Words:
    kind, _, name = subject.partition(".")
    if kind in _NOT_OUTSIDE:
        title, what, look, do = _NOT_OUTSIDE[kind]
        waiting = f"{_orders(details)} {_form(details, 'waits', 'wait')}"
        safe = "Nothing is decided about the orders meanwhile; they go on by themselves."
        return Words(title, f"{what} {waiting}{_some(details)}.", waiting, "none waits for longer than one pause", look, f"{do} {safe}")
    shown = f"the {kind.replace('-', ' ')}" + (f" ({name})" if name else "")
    look, do = _AWAY[kind]
    put_off = f"{_orders(details)} that {_form(details, 'needs it is', 'need it are')} put off{_some(details)}"
    return Words(
        title=f"{shown} is away",
        what=f"{shown[0].upper()}{shown[1:]} does not answer, or does not let us in, and is left alone. {put_off}.",
        value=f"{_orders(details)} {_form(details, 'waits', 'wait')}",
        threshold="none waits for longer than one pause of the circuit",
        look=f"python -m deployments.check, and {look}",
        do=f"Bring it back: {do}. Orders go on by themselves as soon as it answers; nothing is lost or charged twice.",
    )


def _recovery_behind(notice: Notice, order: str, details: Mapping[str, Any]) -> Words:
    rest = notice.subject == REST
    return Words(
        title="recovery does not keep up" if rest else f"nobody has taken over order {order}",
        what=f"{_more(details)} lost {_form(details, 'its', 'their')} worker{_some(details)}, and nobody has taken "
        f"{_form(details, 'it', 'them')} over."
        if rest
        else f"The worker of order {order} died, and nobody has taken the order over.",
        value=f"{_time(notice.value)} since {'the oldest' if rest else 'its'} lease ran out",
        threshold=f"{_time(notice.threshold)} (ALERT_RECOVERY_SECONDS)",
        look="the runs of recover-orders in the Prefect UI",
        do=f"{_WORKERS}, and that the schedule of recover-orders is on and its runs do not fail.",
    )


_WORDS: dict[Rule, Callable[[Notice, str, Mapping[str, Any]], Words]] = {
    Rule.ERROR_RATE: _error_rate,
    Rule.ORDER_WAITING: _order_waiting,
    Rule.NEEDS_ATTENTION: _needs_attention,
    Rule.OUTSIDE_AWAY: _outside_away,
    Rule.RECOVERY_BEHIND: _recovery_behind,
}


def _orders(details: Mapping[str, Any]) -> str:
    return f"{details['orders']:,} {_form(details, 'order', 'orders')}"


def _more(details: Mapping[str, Any]) -> str:
    return f"{details['orders']:,} more {_form(details, 'order', 'orders')}"


def _form(details: Mapping[str, Any], one: str, many: str) -> str:
    return one if details["orders"] == 1 else many


def _some(details: Mapping[str, Any]) -> str:
    """All of them, or examples."""
    named = [one_line(str(each), 60) for each in details.get("for_example", [])]
    if not named:
        return ""
    return f" ({'' if len(named) == details['orders'] else 'such as '}{', '.join(named)})"


def _amount(value: float, details: Mapping[str, Any]) -> str:
    return show(Decimal(str(round(value, 6))), str(details.get("currency", "USD")))


def _time(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
