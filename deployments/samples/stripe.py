"""The sample orders as Stripe's test mode can act them out: paid by the PaymentMethods that Stripe has for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deployments.samples import Sample
from shop.orders.outcomes import Outcome

_TOKENS = {"0000": "pm_card_chargeCustomerFail"}
"""By the card's last four digits; all others can be charged."""


def at_stripe(samples: Sequence[Sample]) -> list[Sample]:
    """Under ids of their own, so that those of the sandbox stay what they are. Stripe's test mode refuses no refund, so
    the sample of that is not among them."""
    return [
        sample.model_copy(update={"orders": [_paid_by_token(order) for order in sample.orders]})
        for sample in samples
        if all(expected.outcome is not Outcome.NEEDS_ATTENTION for expected in sample.expect)
    ]


def _paid_by_token(order: dict[str, Any]) -> dict[str, Any]:
    order = {**order, "id": f"{order['id']}-STRIPE"}
    if info := order.get("payment_info"):
        order["payment_info"] = {**info, "token": _TOKENS.get(str(info["card_last4"]), "pm_card_visa")}
    return order
