"""Settings of orders: the limits of a plausible one."""

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
    """Maximum number of items in an order."""
    max_quantity: int = 100_000
    """Maximum quantity of one item."""
    max_order_total: _Total = Decimal(1_000_000)
    """Maximum total of an order in US dollars. For another currency it is multiplied by the units per dollar,
    rounded up to a power of ten: 100,000,000,000 VND."""
    max_order_total_by_currency: Annotated[dict[str, _Total], FromJson] = Field(default_factory=dict)
    """Maximum total in single currencies (JSON), such as `{"VND": 500000000}`; replaces the default for
    them."""

    @field_validator("max_order_total_by_currency")
    @classmethod
    def _currencies(cls, value: dict[str, Decimal]) -> dict[str, Decimal]:
        made = {currency.upper(): total for currency, total in value.items()}
        if unknown := [currency for currency in made if not is_currency(currency)]:
            raise ValueError(f"these are not currencies of ISO 4217: {', '.join(sorted(unknown))}")
        return made

    def max_total(self, currency: str) -> Decimal:
        """Returns the maximum total of an order in this currency. Converts `MAX_ORDER_TOTAL` from US dollars
        with `units_per_dollar`."""
        return self.max_order_total_by_currency.get(currency) or self.max_order_total * units_per_dollar(
            currency
        )
