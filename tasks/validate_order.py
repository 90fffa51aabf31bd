"""Step 1: validates the order. Changes nothing, so it has no compensation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel

from saga.errors import StepError
from saga.prefect.steps import reading_step
from shop.inventory.catalogue import KnownProducts
from shop.orders.errors import OrderRejected
from shop.orders.order import OrderInstance
from shop.orders.validation import validate
from shop.settings import settings


class ValidationResult(BaseModel):
    """What `validate_order` produces."""

    validation_status: Literal["passed"] = "passed"
    item_count: int
    total_amount: Decimal
    currency: str
    validation_timestamp: datetime


@reading_step()
async def validate_order(orders: Sequence[OrderInstance]) -> Mapping[str, ValidationResult | StepError]:
    """Finds all problems of each order. Raises `OrderRejected` with them."""
    verdicts = await validate([order.content for order in orders], KnownProducts(), settings())
    results: dict[str, ValidationResult | StepError] = {}
    for instance, verdict in zip(orders, verdicts, strict=True):
        if isinstance(verdict, OrderRejected):
            results[instance.id] = verdict
            continue
        instance.payload = verdict
        results[instance.id] = ValidationResult(
            item_count=len(verdict.items),
            total_amount=verdict.total_amount,
            currency=verdict.currency,
            validation_timestamp=datetime.now(UTC),
        )
    return results
