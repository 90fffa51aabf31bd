"""Removes customer data from texts of third parties: for example, a carrier repeats an address that it does
not find.

Text and data are compared word by word in a normalised spelling, which ignores case, accents, `ß` or `ss`,
blanks, and the punctuation in phone numbers. The amount of text that is read is limited, and words are looked
up in sets: values are never used as patterns.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from saga.errors import StepError
from shop.text.sanitize import UNSEEN

E = TypeVar("E", bound=StepError)
HIDDEN = "[customer's]"
_NOT_PERSONAL = frozenset(
    "id product_id quantity price line_total currency total_amount tax_amount shipping_amount "
    "discount_amount tip_amount amount weight_grams sku digital prices_include_tax method provider country "
    "locale ordered_at".split()
)
_SHORTEST_VALUE, _SHORTEST_WORD = 3, 4
_DIGITS = 5
"""A number with this many consecutive digits of a customer's number counts as the customer's."""
_WORDS = 12
"""Limits the words of a value that are looked up together. Longer values are split."""
_MOST_READ, _MOST_KNOWN = 10_000, 50_000
"""Limit the characters that are read of a text and of an order."""
_MOST_CACHED = 10_000
"""Limits the cache of normalised characters."""
_GAP = 3
"""Limits the characters between two groups of digits of one number."""
_UNSEEN = re.compile(f"[{UNSEEN}]")


def hidden(error: E, content: Mapping[str, Any]) -> E:
    """Applies `without_customer` to the error's text if a third party wrote it, as the error goes to the
    journal, to a task run's state and to logs. Returns the error."""
    if error.quotes_external_system:
        error.reword(partial(without_customer, content=content))
        error.__cause__, error.__suppress_context__ = None, True
    return error


def without_customer(text: str, content: Mapping[str, Any]) -> str:
    """Returns the text without the order's customer data: values, their longer words, and numbers, in any
    spelling; also the rest of a value where the text was truncated. The order's id, products, amounts,
    currency, payment method and country stay."""
    if len(text) > _MOST_READ:
        text = text[:_MOST_READ] + "..."
    words, known = _words(text), _known(content)
    to_hide = [len(word.text) >= _SHORTEST_WORD and word.text in known.words for word in words]
    for first, past in (*_values_in(words, known), *_numbers_in(words, known), *_cut_off(words, known, text)):
        to_hide[first:past] = [True] * (past - first)
    parts, end = [], 0
    for is_hidden, group in groupby(zip(words, to_hide, strict=True), key=lambda each: each[1]):
        if is_hidden:
            run = [word for word, _ in group]
            parts += [text[end : run[0].start], HIDDEN]
            end = run[-1].end
    return "".join([*parts, text[end:]])


class _Word(NamedTuple):
    text: str
    start: int
    end: int


@dataclass(slots=True)
class _Known:
    """An order's customer data."""

    words: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)
    """Without the separators between their words."""
    digits: set[str] = field(default_factory=set)
    """All sequences of `_DIGITS` digits of its numbers."""


def _known(content: Mapping[str, Any]) -> _Known:
    known, left = _Known(), _MOST_KNOWN
    for value in _values(content):
        if left <= 0:
            break
        words = _plain(value[:left]).split()
        left -= len(value)
        known.words.update(words)
        known.values.update("".join(words[i : i + _WORDS]) for i in range(0, len(words) - _WORDS, _WORDS))
        known.values.add("".join(words[-_WORDS:]))
        known.digits.update(_runs("".join(filter(str.isdigit, "".join(words)))))
    return known


def _values(value: Any, depth: int = 0) -> Iterator[str]:
    """Yields the order's texts and numbers, lists last: an order may have many items."""
    if isinstance(value, Mapping) and depth < 8:
        for key, each in sorted(value.items(), key=lambda item: isinstance(item[1], list | tuple)):
            if key not in _NOT_PERSONAL:
                yield from _values(each, depth + 1)
    elif isinstance(value, list | tuple) and depth < 8:
        for each in value:
            yield from _values(each, depth + 1)
    elif (
        isinstance(value, str | int | float)
        and not isinstance(value, bool)
        and len(text := str(value).strip()) >= _SHORTEST_VALUE
    ):
        yield text


def _values_in(words: list[_Word], known: _Known) -> Iterator[tuple[int, int]]:
    longest = max(map(len, known.values), default=0)
    for first in range(len(words)):
        together = ""
        for past in range(first + 1, min(first + _WORDS, len(words)) + 1):
            together += words[past - 1].text
            if len(together) > longest:
                break
            if len(together) > 1 and together in known.values:
                yield first, past


def _numbers_in(words: list[_Word], known: _Known) -> Iterator[tuple[int, int]]:
    first = 0
    for past in range(1, len(words) + 1):
        goes_on = past < len(words) and words[past].start - words[past - 1].end <= _GAP
        if not (goes_on and words[past].text.isdigit() and words[past - 1].text.isdigit()):
            number = "".join(word.text for word in words[first:past])
            if number.isdigit() and not known.digits.isdisjoint(_runs(number)):
                yield first, past
            first = past


def _cut_off(words: list[_Word], known: _Known, text: str) -> Iterator[tuple[int, int]]:
    """Yields words that may be the beginning of a value, at places where the text was truncated."""
    ends = [
        past
        for past, word in enumerate(words, 1)
        if _is_cut(text[word.end : words[past].start if past < len(words) else None])
    ]
    beginnings = sorted({*known.values, *known.words}) if ends else []
    for past in ends:
        for first in range(max(0, past - _WORDS), past):
            together = "".join(word.text for word in words[first:past])
            place = bisect_left(beginnings, together)
            if place < len(beginnings) and beginnings[place].startswith(together):
                yield first, past


def _is_cut(between: str) -> bool:
    return "..." in between or "…" in between


def _runs(digits: str) -> Iterator[str]:
    return (digits[i : i + _DIGITS] for i in range(len(digits) - _DIGITS + 1))


class _Spelling(dict[int, str]):
    """Maps characters to their normalised spelling, for `str.translate`: lower-case letters without accents,
    digits 0 to 9, nothing for invisible characters, and a blank for all others."""

    def __missing__(self, code: int) -> str:
        signs = (
            unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", chr(code)).casefold())
            .casefold()
            .replace("ı", "i")
        )
        plain = "".join(map(_letter, signs))
        plain = "".join(plain.split()) or plain[:1]
        if len(self) < _MOST_CACHED:
            self[code] = plain
        return plain


def _letter(sign: str) -> str:
    if sign.isspace():
        return " "
    if unicodedata.category(sign) in {"Mn", "Me"} or _UNSEEN.match(sign):
        return ""
    if sign.isdecimal():
        return str(unicodedata.decimal(sign))
    return sign if sign.isalnum() or unicodedata.category(sign) == "Mc" else " "


_spelling = _Spelling()


def _plain(text: str) -> str:
    return text.translate(_spelling)


def _words(text: str) -> list[_Word]:
    """Returns the text's words in normalised spelling, with their positions in the text."""
    words, letters, start, end = list[_Word](), "", 0, 0
    for place, sign in enumerate(text):
        plain = _spelling[ord(sign)]
        if plain == " ":
            if letters:
                words.append(_Word(letters, start, end))
            letters = ""
        else:
            if not letters:
                start = place
            letters, end = letters + plain, place + 1
    return [*words, _Word(letters, start, end)] if letters else words
