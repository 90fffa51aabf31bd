"""Slots: names in braces for facts of the order. A language model writes the prose, code fills the slots.

A model's text is checked before its slots are filled: it has the required slots, and in its own words no
digit, amount, address or promise. So every amount, number, name and item in a confirmation comes from the
order.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from shop.confirmation.confirmation import ELEMENTS, missing
from shop.notifications.language import words
from shop.notifications.settings import LANGUAGES
from shop.text.sanitize import paragraphs

LONGEST = 600
"""Limits one text before its slots are filled, in characters."""


class _Slots(NamedTuple):
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


SLOTS: Mapping[str, _Slots] = {
    "greeting": _Slots(("customer_name",), ("order_id",)),
    "order_summary": _Slots(("order_id", "items", "total"), ("payment_method",)),
    "next_steps": _Slots(("delivery",), ("address",)),
    "tracking_info": _Slots(("tracking",)),
}
"""The required and the optional slots of each text of a confirmation, each at most once."""

FORBIDDEN = ("numbers", "currencies", "times", "promises", "contacts")
"""Names of a language's word lists, under `[prose]` in its file. There is a list of common words as well."""

_SLOT = re.compile(r"\{(\w{1,40})\}")
_JOINED = re.compile(r"""[^\s("'“„«‚‘]\{|\}[^\s.,;:!?)"'’”»“‘…]""")
"""A slot that touches a character which could change its meaning: a letter, a minus sign, another slot."""
_OWN_SENTENCE = re.compile(r"(?:^|[.!?…]\s+)\{tracking\}(?=\s|$)")
_SENTENCE = 5
"""Minimum number of words from which a text must have a common word of its language."""
_ADDRESS = re.compile(r"\w\.\w")
_PUNCTUATION = frozenset(".,;:!?'\"()-–—…’‘“”„‚«»¡¿")


def clean(text: str) -> str:
    """Normalises a text for checking and sending: replaces compatibility characters, removes control and
    invisible characters."""
    return unicodedata.normalize("NFKC", paragraphs(text))


def fill(texts: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Fills the slots of the texts in a single pass: a value that looks like a slot stays as it is. Raises
    KeyError for a slot without a value."""
    return {name: _SLOT.sub(lambda slot: values[slot[1]], text) for name, text in texts.items()}


def problems(texts: Mapping[str, str], code: str) -> list[str]:
    """Returns why these texts, in the language of this code, must not be sent; empty if they may be."""
    found = [
        f"{name}: {why}"
        for name in ELEMENTS
        if name in texts
        for why in dict.fromkeys(_problems(name, texts[name], code))
    ]
    return [*missing(texts), *found]


def can_check(code: str) -> bool:
    """Whether there are word lists for the language."""
    return all(f"prose.{kind}" in words(code) for kind in ("common", *FORBIDDEN))


def _problems(name: str, text: str, code: str) -> Iterator[str]:
    if len(text) > LONGEST:
        yield f"longer than {LONGEST} characters"
        return
    found, (required, optional) = _SLOT.findall(text), SLOTS[name]
    yield from [f"{{{slot}}} is missing" for slot in required if text.strip() and slot not in found]
    yield from [f"{{{slot}}} does not belong here" for slot in found if slot not in required + optional]
    yield from [f"{{{slot}}} is there more than once" for slot in found if found.count(slot) > 1]
    if _JOINED.search(text):
        yield "a slot touches another word or sign"
    if "{tracking}" in text and not _OWN_SENTENCE.search(text):
        yield "{tracking} is not a sentence of its own"
    prose = _SLOT.sub(" … ", text)
    yield from [
        f"character: {unicodedata.name(sign, f'U+{ord(sign):04X}')}"
        for sign in prose
        if not _may_be_used(sign, code)
    ]
    spoken = re.findall(r"[^\W\d_]+", prose)
    yield from [f"capitals: {word}" for word in spoken if word.isupper() and len(word) > 1]
    if not _is_in(code, spoken):
        yield "not in the language of the mail"
    if _ADDRESS.search(prose):
        yield "contacts: a dot within a word"
    allowed, forbidden = _word_lists()
    prose = allowed.sub(" … ", prose.casefold())
    yield from [
        f"{kind}: {match.group()}" for kind, pattern in forbidden.items() for match in pattern.finditer(prose)
    ]


def _is_in(code: str, spoken: list[str]) -> bool:
    """Whether the words are of this language: no other language has more of them as common words, and a
    sentence has at least one common word."""
    known = {
        language: sum(word.casefold() in common for word in spoken)
        for language, common in _common_words().items()
    }
    return known[code] == max(known.values()) and (known[code] > 0 or len(spoken) < _SENTENCE)


def _may_be_used(sign: str, code: str) -> bool:
    """Allows letters of the language's scripts, blanks and punctuation; no digits or numerals of any
    script, currency signs or markup."""
    if sign.isalpha():
        return not sign.isnumeric() and _script(sign) in _scripts(code)
    return sign in _PUNCTUATION or sign in " \n"


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """Returns the first two words of the letter's name: LATIN SMALL, CYRILLIC CAPITAL, HIRAGANA LETTER."""
    return " ".join(unicodedata.name(letter, "").split()[:2])


@lru_cache
def _scripts(code: str) -> frozenset[str]:
    """Returns the scripts of the language's own file."""
    return frozenset(
        [_script(letter) for text in words(code).values() for letter in text if letter.isalpha()]
    )


@lru_cache(maxsize=1)
def _common_words() -> dict[str, frozenset[str]]:
    return {code: frozenset(words(code).get("prose.common", "").split()) for code in _languages()}


@lru_cache(maxsize=1)
def _word_lists() -> tuple[re.Pattern[str], dict[str, re.Pattern[str]]]:
    """Returns the patterns of permitted and of forbidden words of all languages: a model may answer in a
    language that was not requested."""
    lists = {
        kind: " ".join([words(code).get(f"prose.{kind}", "") for code in _languages()])
        for kind in ("allowed", *FORBIDDEN)
    }
    patterns = {kind: _pattern(entries) for kind, entries in lists.items()}
    return patterns.pop("allowed"), patterns


def _languages() -> list[str]:
    return sorted(file.stem for file in LANGUAGES.glob("*.toml"))


def _pattern(entries: str) -> re.Pattern[str]:
    """Compiles entries in which `*` stands for the rest of a word and `_` for a blank or hyphen."""
    found = [
        re.escape(entry).replace(r"\*", r"\w*").replace("_", r"[\s-]+")
        for entry in entries.casefold().split()
    ]
    return re.compile(rf"\b(?:{'|'.join(found)})\b")
