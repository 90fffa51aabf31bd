"""The sample orders for Stripe's test mode, paid with Stripe's PaymentMethods for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deployments.samples import Sample
from shop.orders.outcomes import Outcome

_TOKENS = dict.fromkeys(("0000", "0002"), "pm_card_chargeCustomerFail")
"""By the card's last four digits; all other cards can be charged."""


def at_stripe(samples: Sequence[Sample]) -> list[Sample]:
    """Gives the samples other ids, so that those of the sandbox keep their outcomes. Omits the sample of a
    refused refund, because Stripe's test mode refuses none."""
    return [
        sample.model_copy(
            update={
                "orders": [_paid_by_token(order) for order in sample.orders],
                "retry": sample.retry and {**sample.retry, "token": "pm_card_visa"},
            }
        )
        for sample in samples
        if all(expected.outcome is not Outcome.NEEDS_ATTENTION for expected in sample.expect)
    ]


def _paid_by_token(order: dict[str, Any]) -> dict[str, Any]:
    order = {**order, "id": f"{order['id']}-STRIPE"}
    info = order.get("payment_info") or {}
    if (card := info.get("card_last4")) is not None:
        order["payment_info"] = {**info, "token": _TOKENS.get(str(card), "pm_card_visa")}
    return order
