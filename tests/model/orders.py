"""The orders of the model: each kind has its own way through the saga, or back."""

from __future__ import annotations

from typing import Any

from tests.integration.world import an_order

KINDS: dict[str, dict[str, Any]] = {
    "good": {},
    "for the last pieces": {"product": "SCARCE"},
    "declined": {"card": "0000"},
    "confirmed at the third try": {"card": "0119"},
    "charged without an answer": {"card": "0341"},
    "refused by the carrier": {"country": "AQ"},
    "refund refused": {"country": "AQ", "card": "0259"},
    "invalid": {"price": "-1.00"},
}
PIECES = {"PLENTY": 1000, "SCARCE": 2}
"""The stock."""
IDS = ("A", "B")


def order(order_id: str, kind: str) -> dict[str, Any]:
    made = an_order(order_id, **{"product": "PLENTY", **KINDS[kind]})
    if kind == "for the last pieces":
        made["items"] = [
            {**made["items"][0], "quantity": 2},
            {"product_id": "PLENTY", "quantity": 1, "price": "1.00"},
        ]
        made["total_amount"] = "2000.98"
    return made
