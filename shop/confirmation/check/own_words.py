"""Signs that a text is not a confirmation at all: gaps left to fill, talk about the task, a language nobody here checks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shop.confirmation.check.finding import Finding, Kind
from shop.confirmation.check.normal import normal
from shop.confirmation.check.words import STOP_WORDS
from shop.order import Order

_GAP = re.compile(
    r"\[[^\]\n]*[A-Za-z][^\]\n]*\]|\{+[^}\n]*\}+|<[^>\n]*[A-Za-z][^>\n]*>|\[\[|\bX{3,}\b|\b(?:N/A|TBD|TBA|lorem ipsum|undefined|null)\b|_{3,}"
)
_ABOUT_THE_TASK = re.compile(
    r"\b(?:as an ai|language model|sprachmodell|system prompt|my instructions|your instructions|ignore (?:all|the|previous|any)|previous instructions|as instructed|as (?:you )?requested in|"
    r"here is (?:the|a|your) (?:text|draft|confirmation text)|i (?:cannot|can't|am unable)|hope this helps|per your notes?|(?:in|from) your notes?|modele de langage|modelo de lenguaje|signature is|json)\b",
    re.IGNORECASE,
)


def gaps(text: str) -> Iterator[Finding]:
    """Gaps and talk about the task."""
    for match in (*_GAP.finditer(text), *_ABOUT_THE_TASK.finditer(text)):
        yield Finding(Kind.PLACEHOLDER, match.group(), "does not belong into a confirmation")


def other_languages(text: str) -> Iterator[Finding]:
    """Sentences of which no word is known are of a language whose promises nobody here would notice."""
    for sentence in re.split(r"[.!?:;\n]+", text):
        words = re.findall(r"[^\W\d_]{2,}", re.sub("[\ue000-\uf8ff]", " ", sentence.lower()))
        if len(words) >= 5 and not STOP_WORDS.intersection(words):
            yield Finding(Kind.LANGUAGE, sentence.strip(), "is in none of the languages that are checked")


def notes_quoted(text: str, order: Order) -> Iterator[Finding]:
    """Four words in a row of the customer's notes, which the writer never saw and must not have."""
    notes = re.findall(r"\w+", normal(order.notes or "").lower())
    words = " " + " ".join(re.findall(r"\w+", text.lower())) + " "
    for at in range(len(notes) - 3):
        run = " ".join(notes[at : at + 4])
        if f" {run} " in words:
            yield Finding(Kind.NOTES, run, "are words of the customer's notes")
            return
