"""Slots: names in braces where a fact of the order belongs. A language model writes the prose around them, code fills them in.

What a model wrote is checked before anything is filled in: it has the slots that it needs, and in its own words no digit, no
amount, no address and no promise. So every amount, number, name and item in a confirmation comes from the order.
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
"""Characters of one text before its slots are filled."""


class _Slots(NamedTuple):
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


SLOTS: Mapping[str, _Slots] = {
    "greeting": _Slots(("customer_name",), ("order_id",)),
    "order_summary": _Slots(("order_id", "items", "total"), ("payment_method",)),
    "next_steps": _Slots(("delivery",), ("address",)),
    "tracking_info": _Slots(("tracking",)),
}
"""The slots that each text of a confirmation must have and those that it may have, each at most once."""

FORBIDDEN = ("numbers", "currencies", "times", "promises", "contacts")
"""What the word lists of a language are about, under `[prose]` in its file. There is a list of common words as well."""

_SLOT = re.compile(r"\{(\w{1,40})\}")
_JOINED = re.compile(r"""[^\s("'“„«‚‘]\{|\}[^\s.,;:!?)"'’”»“‘…]""")
"""A slot that touches something which could change its meaning: a letter, a minus, another slot."""
_OWN_SENTENCE = re.compile(r"(?:^|[.!?…]\s+)\{tracking\}(?=\s|$)")
_SENTENCE = 5
"""Words from which on a text has at least one common word of its language."""
_ADDRESS = re.compile(r"\w\.\w")
_PUNCTUATION = frozenset(".,;:!?'\"()-–—…’‘“”„‚«»¡¿")


def clean(text: str) -> str:
    """The text as it is checked and sent: compatibility characters as usual ones, without control and invisible characters."""
    return unicodedata.normalize("NFKC", paragraphs(text))


def fill(texts: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """The texts with their slots filled, in a single pass: a value that looks like a slot stays as it is.
    KeyError if there is no value for a slot."""
    return {name: _SLOT.sub(lambda slot: values[slot[1]], text) for name, text in texts.items()}


def problems(texts: Mapping[str, str], code: str) -> list[str]:
    """Why these texts, in the language of this code, must not be sent. Empty if they may be."""
    found = [f"{name}: {why}" for name in ELEMENTS if name in texts for why in dict.fromkeys(_problems(name, texts[name], code))]
    return [*missing(texts), *found]


def can_check(code: str) -> bool:
    """Whether the language has word lists of its own."""
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
    yield from [f"character: {unicodedata.name(sign, f'U+{ord(sign):04X}')}" for sign in prose if not _may_be_used(sign, code)]
    spoken = re.findall(r"[^\W\d_]+", prose)
    yield from [f"capitals: {word}" for word in spoken if word.isupper() and len(word) > 1]
    if not _is_in(code, spoken):
        yield "not in the language of the mail"
    if _ADDRESS.search(prose):
        yield "contacts: a dot within a word"
    allowed, forbidden = _word_lists()
    prose = allowed.sub(" … ", prose.casefold())
    yield from [f"{kind}: {match.group()}" for kind, pattern in forbidden.items() for match in pattern.finditer(prose)]


def _is_in(code: str, spoken: list[str]) -> bool:
    """Whether these are words of this language: not more common words of another one, and of a sentence at least one."""
    known = {language: sum(word.casefold() in common for word in spoken) for language, common in _common_words().items()}
    return known[code] == max(known.values()) and (known[code] > 0 or len(spoken) < _SENTENCE)


def _may_be_used(sign: str, code: str) -> bool:
    """Letters of the language's scripts, blanks and punctuation; no digit or numeral of any script, no currency sign, no markup."""
    if sign.isalpha():
        return not sign.isnumeric() and _script(sign) in _scripts(code)
    return sign in _PUNCTUATION or sign in " \n"


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """The first two words of its name: LATIN SMALL, CYRILLIC CAPITAL, HIRAGANA LETTER."""
    return " ".join(unicodedata.name(letter, "").split()[:2])


@lru_cache
def _scripts(code: str) -> frozenset[str]:
    """Those that the language's own file is written in."""
    return frozenset([_script(letter) for text in words(code).values() for letter in text if letter.isalpha()])


@lru_cache(maxsize=1)
def _common_words() -> dict[str, frozenset[str]]:
    return {code: frozenset(words(code).get("prose.common", "").split()) for code in _languages()}


@lru_cache(maxsize=1)
def _word_lists() -> tuple[re.Pattern[str], dict[str, re.Pattern[str]]]:
    """What may be written, and what may not, of all languages together: a model may answer in another one than it was asked for."""
    lists = {kind: " ".join([words(code).get(f"prose.{kind}", "") for code in _languages()]) for kind in ("allowed", *FORBIDDEN)}
    patterns = {kind: _pattern(entries) for kind, entries in lists.items()}
    return patterns.pop("allowed"), patterns


def _languages() -> list[str]:
    return sorted(file.stem for file in LANGUAGES.glob("*.toml"))


def _pattern(entries: str) -> re.Pattern[str]:
    """`*` is the rest of a word, `_` a blank or hyphen."""
    found = [re.escape(entry).replace(r"\*", r"\w*").replace("_", r"[\s-]+") for entry in entries.casefold().split()]
    return re.compile(rf"\b(?:{'|'.join(found)})\b")
