"""Promises that are not ours."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shop.confirmation.check.finding import Finding, Kind
from shop.confirmation.check.promise_words import PROMISE

_IN_WORD = re.compile(r"(?<=[^\W\d_])[-.*_'/](?=[^\W\d_])")
_SPACED = re.compile(r"(?<!\w)[^\W\d_](?:[ .*_-]{1,2}[^\W\d_](?!\w)){3,}")


def promises(text: str) -> Iterator[Finding]:
    """Words of promise, also with dashes or dots within them ("re-fund"), or letter by letter ("f r e e")."""
    found = [match.group() for match in PROMISE.finditer(text)]
    found += [match.group() for match in PROMISE.finditer(_IN_WORD.sub("", text))]
    for word in dict.fromkeys(found):
        yield Finding(Kind.PROMISE, word.lower(), "is not ours to promise")
    for match in _SPACED.finditer(text):
        yield Finding(Kind.LANGUAGE, match.group(), "is spelled letter by letter")
