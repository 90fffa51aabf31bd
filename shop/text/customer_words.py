"""Takes what a customer typed out of texts that others have written: a carrier repeats the address that it does not find.

Both are compared word by word in one spelling, so that case, accents, `ß` or `ss`, blanks and the signs in a phone number make no
difference. Only so much is read of a text and of an order, and each word of the text is looked up: no pattern is made of values.
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
_NOT_THE_CUSTOMERS = frozenset(
    "id product_id quantity price currency total_amount tax_amount shipping_amount discount_amount method country".split()
)
_SHORTEST_VALUE, _SHORTEST_WORD = 3, 4
_DIGITS = 5
"""So many digits in a row that are also in a number of the customer's make a number the customer's."""
_WORDS = 12
"""Words that are looked up together: of a longer value, so many at a time."""
_MOST_READ, _MOST_KNOWN = 10_000, 50_000
"""Characters of a text, and of what an order says."""
_MOST_SPELT = 10_000
"""Characters whose plain spelling is kept."""
_GAP = 3
"""Characters between two groups of digits of one number, at most."""
_UNSEEN = re.compile(f"[{UNSEEN}]")


def hidden(error: E, content: Mapping[str, Any]) -> E:
    """The error with its text as by `without_customer`, if others wrote it: it goes to the journal, to a task run's state and to logs."""
    if error.others_words:
        error.reword(partial(without_customer, content=content))
        error.__cause__, error.__suppress_context__ = None, True
    return error


def without_customer(text: str, content: Mapping[str, Any]) -> str:
    """The text without what the order says of its customer: values, their longer words, and numbers, however they are written; also what
    is left of one where the text was cut. Of an order its id, products, amounts, currency, means of payment and country stay."""
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
    """What an order says of its customer."""

    words: set[str] = field(default_factory=set)
    values: set[str] = field(default_factory=set)
    """Without what is between their words."""
    digits: set[str] = field(default_factory=set)
    """All runs of `_DIGITS` digits of its numbers."""


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
    """The customer's own first: an order may have many items."""
    if isinstance(value, Mapping) and depth < 8:
        for key, each in sorted(value.items(), key=lambda item: isinstance(item[1], list | tuple)):
            if key not in _NOT_THE_CUSTOMERS:
                yield from _values(each, depth + 1)
    elif isinstance(value, list | tuple) and depth < 8:
        for each in value:
            yield from _values(each, depth + 1)
    elif isinstance(value, str | int | float) and not isinstance(value, bool) and len(text := str(value).strip()) >= _SHORTEST_VALUE:
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
    """Where a text was cut, its last words may be the beginning of a value."""
    ends = [past for past, word in enumerate(words, 1) if _is_cut(text[word.end : words[past].start if past < len(words) else None])]
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
    """Of each character, for `str.translate`: small letters without accents, digits as 0 to 9, nothing for what nobody sees, and a blank
    for all else."""

    def __missing__(self, code: int) -> str:
        signs = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", chr(code)).casefold()).casefold().replace("ı", "i")
        plain = "".join(map(_letter, signs))
        plain = "".join(plain.split()) or plain[:1]
        if len(self) < _MOST_SPELT:
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
    """The text's words, and where they stand in it as it is written."""
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
