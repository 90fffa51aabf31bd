"""Settings of shop systems that send their orders here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from shop.runtime.setting_groups import FromJson, Group, prefixed, separated

_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


@dataclass(frozen=True, slots=True)
class Options:
    """What a mapping needs to know of the shop that sends the orders."""

    prefix: str
    """Begins the ids of its orders here."""
    product_id: str = "sku"
    """Which of a line's ids is the catalogue's; the others are used where it is missing."""
    manual_methods: Mapping[str, str] = field(default_factory=dict)
    """The shop's own names of bank transfer and cash on delivery, in lower case."""
    prefixes: Mapping[str, str] = field(default_factory=dict)
    """Prefixes of single shops, by the host of their address."""
    test_orders: bool = False
    """Whether test orders are taken like others."""

    def prefix_of(self, address: str) -> str:
        """Returns the prefix of the shop at this web address."""
        return self.prefixes.get(urlsplit(address).netloc.lower(), self.prefix)


def _checked_prefix(value: str) -> str:
    if not _PREFIX.fullmatch(value):
        raise ValueError("a prefix has 1 to 40 of the characters A-Z a-z 0-9 . _ -")
    return value


def _checked_secrets(value: SecretStr | None) -> SecretStr | None:
    if not all(8 <= len(each) <= 250 for each in separated(value)):
        raise ValueError("must be signing secrets of 8 to 250 characters, with commas between them")
    return value


def _lower(value: Mapping[str, str]) -> dict[str, str]:
    return {" ".join(name.lower().split()): each for name, each in value.items()}


_Prefix = Annotated[str, AfterValidator(_checked_prefix)]
_Secrets = Annotated[SecretStr | None, AfterValidator(_checked_secrets)]
_Methods = Annotated[
    dict[str, Literal["bank_transfer", "cash_on_delivery"]], FromJson, AfterValidator(_lower)
]


class ShopifySettings(Group):
    """Shopify"""

    model_config = prefixed("SHOPIFY_")

    webhook_secret: _Secrets = None
    """Secret with which Shopify signs its webhooks. Several, separated by commas, while one replaces another,
    or for several shops."""
    order_prefix: _Prefix = "shopify-"
    """Begins the ids of Shopify's orders: `shopify-5678`."""
    product_id: Literal["sku", "variant_id", "product_id"] = "sku"
    """Which of a line's ids is the catalogue's. Where it is missing, the others are used in this order."""
    manual_methods: _Methods = Field(default_factory=dict)
    """Your own names of manual payment methods (JSON), such as
    `{"Nachnahme": "cash_on_delivery", "Vorkasse": "bank_transfer"}`."""
    test_orders: bool = False
    """Whether test orders are accepted like others. They are not paid."""

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """The accepted signing secrets."""
        return separated(self.webhook_secret)

    @property
    def options(self) -> Options:
        return Options(
            prefix=self.order_prefix,
            product_id=self.product_id,
            manual_methods=self.manual_methods,
            test_orders=self.test_orders,
        )


class WooCommerceSettings(Group):
    """WooCommerce"""

    model_config = prefixed("WOOCOMMERCE_")

    webhook_secret: _Secrets = None
    """Secret with which WooCommerce signs its webhooks. Several, separated by commas, while one replaces
    another, or for several shops."""
    order_prefix: _Prefix = "woocommerce-"
    """Begins the ids of WooCommerce's orders: `woocommerce-727`."""
    prefixes: Annotated[dict[str, _Prefix], FromJson] = Field(default_factory=dict)
    """Prefixes of several shops, by the host of their address (JSON), because each numbers its orders from
    1: `{"shop.example": "first-", "other.example": "other-"}`."""
    product_id: Literal["sku", "variation_id", "product_id"] = "sku"
    """Which of a line's ids is the catalogue's. Where it is missing, the others are used in this order."""
    manual_methods: _Methods = Field(default_factory=dict)
    """Further payment methods (JSON) that are a bank transfer or cash on delivery, by WooCommerce's id of
    them."""

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """The accepted signing secrets."""
        return separated(self.webhook_secret)

    @property
    def options(self) -> Options:
        return Options(
            prefix=self.order_prefix,
            product_id=self.product_id,
            manual_methods=self.manual_methods,
            prefixes={host.lower(): prefix for host, prefix in self.prefixes.items()},
        )


class MedusaSettings(Group):
    """Medusa"""

    model_config = prefixed("MEDUSA_")

    order_prefix: _Prefix = "medusa-"
    """Begins the ids of Medusa's orders."""
    product_id: Literal["sku", "variant_id", "product_id"] = "sku"
    """Which of a line's ids is the catalogue's. Where it is missing, the others are used in this order."""
    manual_methods: _Methods = Field(default_factory=dict)
    """Payment providers (JSON) that are a bank transfer or cash on delivery, such as
    `{"pp_system_default": "bank_transfer"}`."""

    @property
    def options(self) -> Options:
        return Options(
            prefix=self.order_prefix, product_id=self.product_id, manual_methods=self.manual_methods
        )
