"""`ALERT_URLS`: the services that alerts are delivered to, as apprise URLs."""

from __future__ import annotations

import re

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
