"""Settings of shipping, for any carrier."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from saga.configuration import Seconds
from shop.runtime.setting_groups import Country, FromJson, Group, Url, prefixed

_WEB_ADDRESS = re.compile(r"https?://[^\s/]+")


class ShippingSettings(Group):
    """Shipping"""

    model_config = prefixed("CARRIER_")

    carrier: Literal["embedded", "easypost"] = Field(default="embedded", alias="CARRIER")
    """The carrier: the embedded one, which prints labels itself, or EasyPost."""
    # At most 30, because the step has its own time limit: flows/order_saga.py.
    timeout_seconds: Seconds = Field(default=15, le=30)
    """Timeout of one call to the carrier; at most 30."""
    concurrency: int = Field(default=16, ge=1, le=200)
    """Limits the concurrent calls of one process to the carrier."""
    refuses: Annotated[frozenset[Country], FromJson] = frozenset({"AQ"})
    """Countries to which the embedded carrier does not deliver (JSON list)."""
    estimated_delivery: str = Field(default="3-5 business days", alias="ESTIMATED_DELIVERY")
    """Delivery time that the confirmation states."""
    tracking_url: Url | None = Field(default=None, alias="TRACKING_URL")
    """Link for customers to follow the parcel, such as `https://carrier.example/{tracking_number}`."""

    @field_validator("tracking_url")
    @classmethod
    def _link(cls, value: str | None) -> str | None:
        if value is not None and not (_WEB_ADDRESS.match(value) and "{tracking_number}" in value):
            raise ValueError(
                "TRACKING_URL must be a web address with {tracking_number} in it, "
                "such as https://carrier.example/{tracking_number}"
            )
        return value
