"""Limits of a plausible order."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import Field, field_validator

from shop.runtime.setting_groups import FromJson, Group, prefixed
from shop.values.money import is_currency, units_per_dollar

_Total = Annotated[Decimal, Field(gt=0, lt=10**12)]


class OrderSettings(Group):
    """Orders"""

    model_config = prefixed("")

    max_items: int = 200
    """Largest number of items in an order."""
    max_quantity: int = 100_000
    """Largest quantity of one item."""
    max_order_total: _Total = Decimal(1_000_000)
    """Largest total of an order in US dollars. In another currency it is as many times larger as its units
    are worth less, to a power of ten: 100,000,000,000 VND."""
    max_order_total_by_currency: Annotated[dict[str, _Total], FromJson] = Field(default_factory=dict)
    """Largest total in single currencies, instead (JSON), such as `{"VND": 500000000}`."""

    @field_validator("max_order_total_by_currency")
    @classmethod
    def _currencies(cls, value: dict[str, Decimal]) -> dict[str, Decimal]:
        made = {currency.upper(): total for currency, total in value.items()}
        if unknown := [currency for currency in made if not is_currency(currency)]:
            raise ValueError(f"these are no currencies of ISO 4217: {', '.join(sorted(unknown))}")
        return made

    def max_total(self, currency: str) -> Decimal:
        """The largest total of an order in this currency. `MAX_ORDER_TOTAL` is in US dollars; others are
        counted by their magnitude."""
        own = self.max_order_total_by_currency.get(currency)
        return own or self.max_order_total * units_per_dollar(currency)
