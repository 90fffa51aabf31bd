"""Settings of the inventory."""

from __future__ import annotations

import re

from pydantic import Field, SecretStr, field_validator

from saga.configuration import Seconds
from shop.runtime.setting_groups import Group, Minutes, Url, is_plain_address, prefixed

_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{8,500}")


class InventorySettings(Group):
    """Inventory"""

    model_config = prefixed("INVENTORY_")

    service_url: Url | None = None
    """Address of the inventory service that has the stock. Default: the stock is in the shop's own
    tables."""
    service_token: SecretStr | None = None
    """Bearer token for the inventory service; `order-saga inventory-service` requires it if it is set."""
    timeout_seconds: Seconds = Field(default=5, le=15)
    """Timeout of one call to the service; at most 15, because the steps have time limits of their own."""
    concurrency: int = Field(default=16, ge=1, le=200)
    """Limits the connections of one process to the service."""
    breaker_failures: int = Field(default=3, ge=1)
    """Consecutive failures of the service that open the circuit breaker."""
    breaker_seconds: Seconds = 10
    """How long the circuit breaker stays open before one call tries the service again."""
    reservation_minutes: Minutes = Field(default=30, alias="RESERVATION_MINUTES")
    """How long stock stays reserved for an order that no worker processes."""

    @field_validator("service_url")
    @classmethod
    def _service(cls, value: str | None) -> str | None:
        if value is not None and not is_plain_address(value):  # it is stored with each order
            raise ValueError(
                "INVENTORY_SERVICE_URL must be a web address without login or query, such as "
                "https://inventory.example; "
                "unset it to use the embedded stock"
            )
        return value.rstrip("/") if value else None

    @field_validator("service_token")
    @classmethod
    def _token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _TOKEN.fullmatch(value.get_secret_value()):
            raise ValueError(
                "INVENTORY_SERVICE_TOKEN must be 8 to 500 characters of those that a bearer token may have"
            )
        return value
