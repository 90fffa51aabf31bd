"""Settings of alerts."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator

from saga.configuration import Seconds
from shop.alerts.urls import split_urls
from shop.runtime.setting_groups import Group, Minutes, prefixed


class AlertSettings(Group):
    """Alerts"""

    model_config = prefixed("ALERT_")

    urls: SecretStr | None = None
    """Services to which alerts are sent, as [apprise](https://github.com/caronc/apprise) URLs separated by
    blanks or commas."""
    min_commands: int = Field(default=20, ge=1)
    """Minimum number of commands in the window for an alert on their error rate."""
    waiting_minutes: Minutes = 15
    """How long an order may be without an outcome before an alert is raised."""
    recovery_seconds: Seconds = 180
    """How long an order's lease may have been expired before an alert is raised."""

    @field_validator("urls")
    @classmethod
    def _services(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            split_urls(value.get_secret_value())
        return value
