"""Parses `SMTP_URL`: `smtp://user:password@host:587`, `smtps://user:password@host`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from shop.text.domains import ascii_domain

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
