"""Settings of Stripe."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import SecretStr, field_validator

from shop.runtime.setting_groups import Group, prefixed, separated

_KEY = re.compile(r"[sr]k_[A-Za-z0-9_]{4,250}")
_WEBHOOK_SECRET = re.compile(r"whsec_[A-Za-z0-9+/=_-]{8,250}")


class StripeSettings(Group):
    """Stripe"""

    model_config = prefixed("STRIPE_")

    api_key: SecretStr | None = None
    """Secret key (`sk_...`) or restricted key (`rk_...`) of the Stripe account. Required for
    `PAYMENT_GATEWAY=stripe`."""
    webhook_secret: SecretStr | None = None
    """Signing secret of the webhook endpoint at Stripe (`whsec_...`). Several, separated by commas, while one
    replaces another."""

    @field_validator("api_key")
    @classmethod
    def _secret_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _KEY.fullmatch(value.get_secret_value()):
            raise ValueError(
                "STRIPE_API_KEY must be a secret key (sk_...) "
                "or a restricted one (rk_...), not a publishable one (pk_...)"
            )
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _signing_secrets(cls, value: SecretStr | None) -> SecretStr | None:
        if not all(_WEBHOOK_SECRET.fullmatch(secret) for secret in separated(value)):
            raise ValueError(
                "STRIPE_WEBHOOK_SECRET must be signing secrets (whsec_...), with commas between them"
            )
        return value

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """The accepted signing secrets of webhooks."""
        return separated(self.webhook_secret)

    def missing(self, url: str) -> Iterator[str]:
        """Yields the reasons why Stripe cannot be used at this address: missing or contradictory settings."""
        if self.api_key is None:
            yield "PAYMENT_GATEWAY=stripe needs STRIPE_API_KEY, a secret key of your Stripe account"
        elif "_live_" in self.api_key.get_secret_value() and not url.startswith("https://"):
            yield (
                "PAYMENT_GATEWAY_URL must start with https:// for a live STRIPE_API_KEY, "
                "or be unset, for Stripe's own"
            )
