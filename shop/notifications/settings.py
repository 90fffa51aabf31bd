"""Settings of mail and of the CRM; parses the mail server's address and the webhooks' key."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from saga.configuration import Seconds
from shop.runtime.setting_groups import Country, FromJson, Group, Url, prefixed
from shop.text.domains import ascii_domain

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


StartTls = Literal["required", "if-offered", "never"]
_FORM = (
    "smtp://user:password@host:587 or smtps://user:password@host:465, "
    "with ?starttls=required, if-offered or never, and &ca=/path/to/ca.pem"
)


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """The address of a mail server, with login and TLS options."""

    host: str
    port: int
    tls: bool
    """Encrypted from the start (`smtps`)."""
    starttls: StartTls
    """Default: required with a login, otherwise used if the server offers it."""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    """The path of a file with certificates to trust instead of the system's."""


def smtp_server(url: str) -> SmtpServer:
    """Parses the URL. Raises ValueError, without the URL in its message, as it may contain a password."""
    try:
        parts = urlsplit(url)
        host, port = ascii_domain(parts.hostname or ""), parts.port
        options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    except ValueError:
        raise ValueError(f"SMTP_URL must look like {_FORM}") from None
    if parts.scheme not in {"smtp", "smtps"} or not host or parts.path not in {"", "/"} or parts.fragment:
        raise ValueError(
            f"SMTP_URL must look like {_FORM}; "
            "in user and password, percent-encode special characters (@ is %40)"
        )
    user, password = (unquote(part) if part else None for part in (parts.username, parts.password))
    if (user is None) != (password is None):
        raise ValueError("SMTP_URL needs a user and a password, or neither")
    tls, chosen, ca = parts.scheme == "smtps", options.pop("starttls", None), options.pop("ca", None)
    if options:
        raise ValueError("SMTP_URL has an unknown option: the options are starttls and ca")
    if tls and chosen:
        raise ValueError("SMTP_URL: smtps:// is encrypted from the start; starttls is for smtp://")
    starttls: StartTls
    match chosen:
        case None:
            starttls = "never" if tls else "required" if user else "if-offered"
        case "required" | "if-offered" | "never":
            starttls = chosen
        case _:
            raise ValueError("SMTP_URL: starttls must be required, if-offered or never")
    return SmtpServer(host, port or (465 if tls else 587 if user else 25), tls, starttls, user, password, ca)


_PREFIX = "whsec_"
_LEAST, _MOST = 24, 64
"""Limit the length of the key, in bytes."""


def webhook_key(secret: str) -> bytes:
    """Returns the key. Raises ValueError, without the secret in its message, if the secret is invalid."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(_PREFIX) or not _LEAST <= len(key) <= _MOST:
        raise ValueError(
            f"CRM_WEBHOOK_SECRET must be whsec_ and {_LEAST} to {_MOST} random bytes in base64; "
            'create one with: python -c "import base64, os; '
            "print('whsec_' + base64.b64encode(os.urandom(32)).decode())\""
        )
    return key
