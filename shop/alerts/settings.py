"""Settings of alerts."""

from __future__ import annotations

import re

from pydantic import Field, SecretStr, field_validator

from saga.configuration import Seconds
from shop.runtime.setting_groups import Group, Minutes, prefixed

_SEPARATOR = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9]*://)")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9]*://\S+")


def split_urls(text: str) -> tuple[str, ...]:
    """Splits a list separated by blanks, line breaks or commas; a comma inside a URL
    (`?to=a@x.example,b@x.example`) separates nothing.

    Raises ValueError, which does not show the text, for an entry that is not a URL.
    """
    urls = tuple(each.rstrip(",") for each in _SEPARATOR.split(text.strip()))
    for number, url in enumerate(urls, 1):
        if not _URL.fullmatch(url):
            raise ValueError(
                f"ALERT_URLS: entry {number} is not an apprise URL, "
                "such as mailto://user:password@mail.example or slack://..."
            )
    return urls


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
