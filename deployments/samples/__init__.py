"""The sample orders and their expected outcomes. `make run` submits them, and each is a test."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.cli.outcome_table import effective_compensations
from shop.orders.outcomes import OrderOutcome, Outcome

_FOLDER = Path(__file__).parent
_TOKENS = dict.fromkeys(("0000", "0002"), "pm_card_chargeCustomerFail")
"""Stripe's PaymentMethods for tests, by the card's last four digits; all other cards can be charged."""


class Expected(BaseModel):
    """The expected outcome of an order."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    outcome: Outcome
    failing_step: str | None = None
    undone: list[str] = Field(default_factory=list)
    """The compensations that undid something, in the order in which they ran."""
    charged: Decimal = Decimal(0)
    refunded: Decimal = Decimal(0)
    at_risk: Decimal = Decimal(0)
    elsewhere: Decimal = Decimal(0)
    """What others have taken for the order."""

    def differences(self, actual: OrderOutcome) -> list[str]:
        """Returns what is not as expected; empty if all is."""
        pairs: list[tuple[str, object, object]] = [
            ("outcome", self.outcome.value, actual.outcome.value if actual.outcome else "none yet"),
            ("failing step", self.failing_step, actual.failing_step),
            ("undone", self.undone, effective_compensations(actual)),
            ("charged", self.charged, actual.amount_charged),
            ("refunded", self.refunded, actual.amount_refunded),
            ("at risk", self.at_risk, actual.amount_at_risk),
            ("paid elsewhere", self.elsewhere, actual.amount_elsewhere),
        ]
        return [
            f"{name}: {there or 'nothing'}, expected {wanted or 'nothing'}"
            for name, wanted, there in pairs
            if wanted != there
        ]


class Sample(BaseModel):
    """Orders that belong together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    about: str
    orders: list[dict[str, Any]] = Field(min_length=1)
    """The orders as customers submit them: not all are valid."""
    expect: list[Expected]
    retry: dict[str, str] | None = None
    """Another means of payment, with which each order is tried again after it ended uncompleted."""
    concurrent: bool = False
    """Whether they are submitted at the same time, so that it is open which of them gets which outcome."""

    @model_validator(mode="after")
    def _one_end_each(self) -> Self:
        if len(self.orders) != len(self.expect):
            raise ValueError(f"{len(self.orders)} orders, but {len(self.expect)} expected ends")
        return self

    def assign(self, outcomes: Sequence[OrderOutcome | None]) -> list[Expected]:
        """Assigns an expected outcome to each order, given the actual outcomes."""
        if not self.concurrent:
            return self.expect
        left, assigned = list(self.expect), []
        for outcome in outcomes:
            best = min(left, key=lambda expected: len(expected.differences(outcome)) if outcome else 0)
            left.remove(best)
            assigned.append(best)
        return assigned


def load_samples() -> list[Sample]:
    """Returns all samples, sorted by file name."""
    return [
        Sample.model_validate_json(path.read_text(encoding="utf-8"))
        for path in sorted(_FOLDER.glob("*.json"))
    ]


def at_stripe(samples: Sequence[Sample]) -> list[Sample]:
    """Adapts the samples to Stripe's test mode. Gives them other ids, so that those of the sandbox keep their
    outcomes. Omits the sample of a refused refund, because Stripe's test mode refuses none."""
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


def all_outside(samples: Sequence[Sample]) -> list[Sample]:
    """Adapts the samples to a shop with an inventory service and an external carrier: the service ships the
    pieces before a label is requested. So for an order that the carrier refuses, `return_shipment` puts them
    back first, and no reservation is left to release. (The embedded carrier refuses earlier.)"""
    return [
        sample.model_copy(update={"expect": [_put_back(expected) for expected in sample.expect]})
        for sample in samples
    ]


def _put_back(expected: Expected) -> Expected:
    if expected.failing_step != "fulfill_order":
        return expected
    others = [undone for undone in expected.undone if undone != "release_inventory"]
    return expected.model_copy(update={"undone": ["return_shipment", *others]})
