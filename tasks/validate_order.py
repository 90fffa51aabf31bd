"""Step 1: does the order make sense? Changes nothing, so there is nothing to undo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel

from shop.catalogue import KnownProducts
from shop.errors import OrderError, OrderRejected
from shop.settings import settings
from shop.under_way import OrderUnderWay
from shop.validation import validate
from tasks.step import reading_step


class ValidationResult(BaseModel):
    """What `validate_order` produces."""

    validation_status: Literal["passed"] = "passed"
    item_count: int
    total_amount: Decimal
    currency: str
    validation_timestamp: datetime


@reading_step()
async def validate_order(orders: Sequence[OrderUnderWay]) -> Mapping[str, ValidationResult | OrderError]:
    """Finds everything that is wrong with an order, at once. Raises `OrderRejected`."""
    verdicts = await validate([order.content for order in orders], KnownProducts(), settings())
    results: dict[str, ValidationResult | OrderError] = {}
    for under_way, verdict in zip(orders, verdicts, strict=True):
        if isinstance(verdict, OrderRejected):
            results[under_way.id] = verdict
            continue
        under_way.order = verdict
        results[under_way.id] = ValidationResult(
            item_count=len(verdict.items),
            total_amount=verdict.total_amount,
            currency=verdict.currency,
            validation_timestamp=datetime.now(UTC),
        )
    return results
