"""Settings of mail and of the CRM."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from saga.configuration import Seconds
from shop.notifications.smtp_url import smtp_server
from shop.notifications.webhook_key import webhook_key
from shop.runtime.setting_groups import Country, FromJson, Group, Url, prefixed

LANGUAGES = Path(__file__).resolve().parent / "languages"
"""Folder of the mails' texts: a file for each language."""
_WEB_ADDRESS = re.compile(r"https?://[^\s/]+")


def _known(language: str) -> str:
    if language not in (known := sorted(file.stem for file in LANGUAGES.glob("*.toml"))):
        raise ValueError(f"mails have no texts in this language, only in: {', '.join(known)}")
    return language


Language = Annotated[str, AfterValidator(_known)]


class MailSettings(Group):
    """Mails"""

    model_config = prefixed("MAIL_")

    language: Language = "en"
    """Language of mails: `en` or `de`."""
    language_by_country: Annotated[dict[Country, Language], FromJson] = Field(default_factory=dict)
    """Languages for single countries (JSON), such as `{"DE": "de", "AT": "de"}`."""


class SmtpSettings(Group):
    """Mail server"""

    model_config = prefixed("SMTP_")

    url: SecretStr | None = None
    """The mail server, such as `smtp://user:password@host:587`. Default: mails go into `var/mail/`."""
    timeout_seconds: Seconds = 10
    """Timeout for connecting and for the commands of one mail. The server has 2 minutes to accept a mail's
    content."""
    connections: int = Field(default=4, ge=1, le=50)
    """Limits the connections of one worker."""

    @field_validator("url")
    @classmethod
    def _mail_server(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            smtp_server(value.get_secret_value())
        return value


class CrmSettings(Group):
    """CRM"""

    model_config = prefixed("CRM_")

    webhook_url: Url | None = None
    """Address to which messages about contacts are sent to the CRM."""
    webhook_secret: SecretStr | None = None
    """Secret that signs these messages (`whsec_...`)."""
    timeout_seconds: Seconds = 10
    """Timeout of one message."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.webhook_url is None:
            return self
        if not _WEB_ADDRESS.match(self.webhook_url):
            raise ValueError("CRM_WEBHOOK_URL must start with https:// or http://")
        if self.webhook_secret is None:
            raise ValueError("CRM_WEBHOOK_URL needs CRM_WEBHOOK_SECRET (whsec_...), which signs the messages")
        webhook_key(self.webhook_secret.get_secret_value())
        return self
