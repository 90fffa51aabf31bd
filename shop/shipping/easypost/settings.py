"""Settings of EasyPost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from saga.configuration import LARGEST
from shop.runtime.setting_groups import Country, FromJson, Group, Url, prefixed

_KEY = re.compile(r"EZ[A-Za-z0-9_-]{4,250}")
_LABEL_HOSTS = frozenset(
    {
        "easypost-files.s3.amazonaws.com",
        "easypost-files.s3.us-west-2.amazonaws.com",
        "easypost-files.s3-us-west-2.amazonaws.com",
    }
)


class Sender(BaseModel):
    """The sender's address, as an external carrier requires it."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    street1: str = Field(min_length=1)
    street2: str | None = None
    city: str = Field(min_length=1)
    state: str | None = None
    zip: str | None = None
    country: Country
    phone: str | None = None


class EasyPostSettings(Group):
    """EasyPost"""

    model_config = prefixed("CARRIER_")

    api_key: SecretStr | None = Field(default=None, alias="EASYPOST_API_KEY")
    """Key of the EasyPost account (`EZTK...` for tests, `EZAK...` for real labels). Required for
    `CARRIER=easypost`."""
    sender: Annotated[Sender | None, FromJson] = None
    """Sender's address of parcels, required for `CARRIER=easypost` (JSON: `street1`, `street2`, `city`,
    `state`, `zip`, `country`, `phone`)."""
    service: str | None = None
    """The carrier's service to buy labels of, such as `USPS Priority`. Default: the cheapest."""
    piece_ounces: Annotated[float, Field(gt=0, le=LARGEST)] = 16
    """Weight of one piece in ounces, for rates and customs."""
    url: Url = "https://api.easypost.com"
    """Address of EasyPost's API."""
    label_hosts: Annotated[frozenset[str], FromJson] = _LABEL_HOSTS
    """Hosts from which labels are fetched by https, in addition to the host of `CARRIER_URL` (JSON list)."""

    @field_validator("api_key")
    @classmethod
    def _one_word(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _KEY.fullmatch(value.get_secret_value()):
            raise ValueError(
                "EASYPOST_API_KEY must be a key of EasyPost (EZTK... for tests, EZAK... for real labels)"
            )
        return value

    def missing(self) -> Iterator[str]:
        """Yields the reasons why EasyPost cannot be used: missing or contradictory settings."""
        needed = []
        if self.api_key is None:
            needed.append("EASYPOST_API_KEY, a key of your EasyPost account")
        if self.sender is None:
            needed.append(
                'CARRIER_SENDER, such as {"street1": "...", "city": "...", "zip": "...", "country": "US"}'
            )
        if needed:
            yield f"CARRIER=easypost needs {', and '.join(needed)}"
        if (
            self.api_key
            and self.api_key.get_secret_value().startswith("EZAK")
            and not self.url.startswith("https://")
        ):
            yield (
                "CARRIER_URL must start with https:// for an EASYPOST_API_KEY that buys real labels, "
                "or be unset"
            )
