"""Converts internationalised domain names to ASCII, as browsers do: UTS 46, non-transitional.

Python's own codec (`str.encode("idna")`, also in `socket.getaddrinfo`) follows IDNA 2003, which converts
`straße.example` to `strasse.example`: a different domain, which may have a different owner.
"""

from __future__ import annotations

import re

import idna

_AUTHORITY = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<login>[^/?#]*@)?(?P<hosts>[^/?#@]*)")


def ascii_domain(domain: str) -> str:
    """Returns the domain in ASCII. Raises UnicodeError if no such domain can exist."""
    if domain.isascii():
        return domain
    return idna.encode(domain, uts46=True, std3_rules=True, transitional=False).decode("ascii")


def ascii_mail_domain(address: str) -> str:
    """Returns the mail address with its domain in ASCII. Raises UnicodeError if no such domain can exist."""
    mailbox, at, domain = address.rpartition("@")
    return f"{mailbox}{at}{ascii_domain(domain)}"


def ascii_url_host(url: str) -> str:
    """Returns the URL with its host (or comma-separated hosts) in ASCII. Raises UnicodeError if no such host
    can exist."""
    if (found := _AUTHORITY.match(url)) is None or found["hosts"].isascii():
        return url
    hosts = ",".join(_ascii_host_and_port(each) for each in found["hosts"].split(","))
    return f"{found['scheme']}{found['login'] or ''}{hosts}{url[found.end() :]}"


def _ascii_host_and_port(host_and_port: str) -> str:
    host, colon, port = host_and_port.partition(":")
    return host_and_port if host_and_port.isascii() else f"{ascii_domain(host)}{colon}{port}"
