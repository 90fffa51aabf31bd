"""Messages about alerts: each rule, raised and cleared,
for one order and for several; numbers and nouns agree."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

from shop.alerts.message import alert_message, describe, event_payload
from shop.alerts.notices import Notice
from shop.alerts.rules import ALL, REST, Rule

BEGAN = datetime(2031, 2, 3, 9, 30, tzinfo=UTC)
ONE: dict[Rule, dict[str, Any]] = {
    Rule.ERROR_RATE: {"commands": 20, "failed": 1, "window": "the last hour", "codes": {"step_broken": 1}},
    Rule.ORDER_WAITING: {"order_id": "ORDER-7"},
    Rule.NEEDS_ATTENTION: {
        "order_id": "ORDER-7",
        "currency": "EUR",
        "step": "process_payment",
        "code": "refund_refused",
    },
    Rule.RECOVERY_BEHIND: {"order_id": "ORDER-7"},
    Rule.EXTERNAL_UNAVAILABLE: {
        "orders": 1,
        "for_example": ["ORDER-7"],
        "code": "payment_gateway_unavailable",
    },
}
SUBJECTS = {
    Rule.ERROR_RATE: ("process_payment", ALL),
    Rule.EXTERNAL_UNAVAILABLE: (
        "payment-gateway.stripe",
        "payment-gateway.sandbox",
        "inventory-service",
        "carrier.easypost",
        "infrastructure",
        "worker-of-another-version",
    ),
}
CASES = [
    *((rule, subject, ONE[rule]) for rule in Rule for subject in SUBJECTS.get(rule, ("ORDER-7",))),
    *(
        (Rule.EXTERNAL_UNAVAILABLE, "carrier.easypost", {"orders": count, "for_example": ["A", "B"]})
        for count in (2, 1200)
    ),
    *(
        (rule, REST, {"orders": count, "for_example": [f"O-{each}" for each in range(min(5, count))]})
        for rule in Rule
        if rule not in SUBJECTS
        for count in (1, 2, 1200)
    ),
]
_ONE_OF_MANY = re.compile(
    r"(?<![\d.,:])1 (?:more )?\w+s\b(?! )|\b1 (?:more )?orders|the last 1 |"
    r"(?<!\d)1 (?:more )?order (?:have|are|wait|need)\b"
)
_MANY_OF_ONE = re.compile(r"(?:[2-9]|\d{2,}|,\d+) (?:more )?order\b|(?<!-)\borders (?:has|is|waits|needs)\b")


def notice(
    rule: Rule, subject: str, details: dict[str, Any], phase: Literal["raised", "cleared"] = "raised"
) -> Notice:
    over_at = BEGAN + timedelta(hours=1) if phase == "cleared" else None
    value = (
        details["orders"]
        if rule is Rule.EXTERNAL_UNAVAILABLE
        else 0.06
        if rule is Rule.ERROR_RATE
        else 1000.0
    )
    threshold = 0.05 if rule is Rule.ERROR_RATE else 900.0
    return Notice(
        7,
        phase,
        "url-1",
        BEGAN,
        1,
        rule,
        subject,
        f"shop.{subject}",
        BEGAN,
        value,
        threshold,
        details,
        over_at,
        None,
    )


@pytest.mark.parametrize("phase", ["raised", "cleared"])
@pytest.mark.parametrize(("rule", "subject", "details"), CASES)
def test_every_alert_can_be_described(
    rule: Rule, subject: str, details: dict[str, Any], phase: Literal["raised", "cleared"]
) -> None:
    raised = notice(rule, subject, details, phase)
    described, message = describe(raised), alert_message(raised, "The Shop")
    named = _named(rule, subject)
    assert named in described.title
    assert message.title == f"[The Shop] {'cleared' if phase == 'cleared' else 'alert'}: {described.title}"
    assert described.what in message.body
    for text in (
        message.body,
        event_payload(raised)["text"],
        *(getattr(described, each) for each in described.__slots__),
    ):
        plain = " ".join(text.split())
        for wrong in (_ONE_OF_MANY, _MANY_OF_ONE):
            assert not wrong.search(plain), plain
        assert "None" not in plain
        assert "()" not in plain
        assert ".." not in plain
    assert named.lower() in " ".join(event_payload(raised)["text"].lower().split())
    for example in details.get("for_example", ()):
        assert example in described.what
    assert ("such as" in described.what) == (len(details.get("for_example", ())) < details.get("orders", 0))


def _named(rule: Rule, subject: str) -> str:
    if rule is Rule.EXTERNAL_UNAVAILABLE:
        kind, _, name = subject.partition(".")
        return kind.replace("-", " ") + (f" ({name})" if name else "")
    rest = {
        Rule.ORDER_WAITING: "more orders",
        Rule.NEEDS_ATTENTION: "more orders",
        Rule.RECOVERY_BEHIND: "recovery",
    }
    return rest[rule] if subject == REST else "all steps" if subject == ALL else subject


@pytest.mark.parametrize(
    ("subject", "here", "not_here"),
    [
        ("payment-gateway.stripe", "payment.gateway.unavailable", "inventory"),
        ("inventory-service", "inventory.service.unavailable", "payment"),
        ("carrier.easypost", "postpone orders", ".unavailable"),
        ("infrastructure", "they name the error", ".unavailable"),
        ("worker-of-another-version", "they name the step", ".unavailable"),
    ],
)
def test_where_to_look_is_about_what_is_unavailable(subject: str, here: str, not_here: str) -> None:
    look = describe(notice(Rule.EXTERNAL_UNAVAILABLE, subject, ONE[Rule.EXTERNAL_UNAVAILABLE])).look
    assert here in look
    assert not_here not in look


def test_the_patterns_find_what_does_not_fit() -> None:
    for wrong in (
        "1 orders wait",
        "1 more orders",
        "the last 1 hours",
        "1 order wait for it",
        "1 more order have no",
    ):
        assert _ONE_OF_MANY.search(wrong), wrong
    for wrong in ("12 order", "2 more order wait", "1,200 order", "5 orders waits"):
        assert _MANY_OF_ONE.search(wrong), wrong
    for right in ("1 order waits", "21 orders wait", "1 more order has no", "0:01:00", "1 of 20 failed"):
        assert not _ONE_OF_MANY.search(right), right
        assert not _MANY_OF_ONE.search(right), right
