"""What the journal says about an order's money: charged, refunded, at risk, and taken by others."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from saga.instance import Entry
from shop.orders.order import EXAMPLE, OrderInstance
from shop.orders.store import ORDERS
from shop.payments.charge import STEP
from shop.payments.moved import money_moved, moved_elsewhere
from shop.payments.settled import Settled

GIFT = {"part_payments": [{"method": "gift_card", "amount": "300"}]}
DONE = {"amount_charged": "759.97", "amount_elsewhere": "300"}
AT_RISK = {
    "amount_charged": "759.97",
    "refunded_amount": "759.97",
    "amount_elsewhere": "300",
    "amount_at_risk": "300",
}


@pytest.mark.parametrize(
    ("entry", "moved", "elsewhere"),
    [
        (None, ("0", "0", "0"), "0"),
        ({"status": "done", "result": DONE}, ("759.97", "0", "0"), "300"),
        # a compensation without an answer: all of it is at risk
        (
            {"status": "done", "result": DONE, "undo_status": "failed", "undo_error": {"code": "timeout"}},
            ("759.97", "0", "1059.97"),
            "300",
        ),
        ({"status": "begun", "undo_status": "failed", "undo_error": {}}, ("0", "0", "1059.97"), "300"),
        # the gateway's part is back, the gift card's is not
        (
            {"status": "done", "result": DONE, "undo_status": "failed", "undo_error": AT_RISK},
            ("759.97", "759.97", "300"),
            "300",
        ),
        # the gateway's refund came back after a person gave the gift card's part back
        (
            {
                "status": "done",
                "result": DONE,
                "notes": Settled(elsewhere=Decimal(300)).notes,
                "undo_status": "failed",
                "undo_error": {**AT_RISK, "refunded_amount": "0", "amount_elsewhere": "0"}
                | {"amount_at_risk": "759.97"},
            },
            ("759.97", "0", "759.97"),
            "300",
        ),
        # the same, without an answer
        (
            {
                "status": "done",
                "result": DONE,
                "notes": Settled(Decimal(200), Decimal(300)).notes,
                "undo_status": "failed",
                "undo_error": {"code": "timeout"},
            },
            ("759.97", "0", "559.97"),
            "300",
        ),
        # cash that was written off before it was collected, and may have come since
        (
            {
                "status": "done",
                "result": {"amount_elsewhere": "1059.97"},
                "notes": Settled(elsewhere=Decimal("1059.97"), uncollected=Decimal("1059.97")).notes,
                "undo_status": "failed",
                "undo_error": {"code": "timeout"},
            },
            ("0", "0", "1059.97"),
            "2119.94",
        ),
        # a person gave it back
        (
            {
                "status": "done",
                "result": DONE,
                "undo_status": "done",
                "undo_result": {**AT_RISK, "refunded_by_hand": "300"},
            },
            ("759.97", "759.97", "0"),
            "300",
        ),
    ],
)
def test_what_has_moved(entry: dict[str, Any] | None, moved: tuple[str, str, str], elsewhere: str) -> None:
    order = OrderInstance("A", {**EXAMPLE, **GIFT}, 1, ORDERS)
    if entry is not None:
        due = entry.get("undo_status") == "failed"
        order.journal[STEP] = Entry(step=STEP, undo_due=due, **entry)
    assert money_moved(order) == tuple(map(Decimal, moved))
    assert moved_elsewhere(order) == Decimal(elsewhere)
    charged, refunded, at_risk = money_moved(order)
    if at_risk:
        assert at_risk <= charged - refunded + moved_elsewhere(order) or charged == 0
