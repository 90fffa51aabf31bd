"""How good a text is, as a number between 0 and 1.

Whether it may leave comes first: whatever the fact check finds, or an element that is missing, keeps the score below
`FIT`, the lower the more there is. A text that may leave has at least `FIT`; the rest is for completeness and tone.
So no gain in tone makes up for one text that a customer would never see.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from shop.confirmation.check.fact_check import fact_check
from shop.confirmation.confirmation import missing
from shop.confirmation.optimising.examples import Example
from shop.plain import folded, paragraphs

FIT = 0.7
_UNFIT = 0.4
_MOST_FINDINGS = 5

_THANKS = re.compile(r"\bthank|\bgrateful|\bappreciat", re.IGNORECASE)
_TRACKING = re.compile(r"\btrack", re.IGNORECASE)
_SHOUTED = re.compile(r"\b[A-Z]{4,}(?: [A-Z]{3,})+\b")
_SHORTEST, _LONGEST = 15, 600
"""Characters of one element."""


@dataclass(frozen=True, slots=True)
class Score:
    """What the metric says of one text."""

    value: float
    failures: tuple[str, ...]
    """The names of the checks that failed: kinds of findings, elements that are missing, completeness and tone."""
    told: tuple[str, ...]
    """The same in words, for a model that is to write better instructions."""

    @property
    def fit(self) -> bool:
        """Whether the text may leave."""
        return self.value >= FIT


def score(texts: Mapping[str, str], example: Example) -> Score:
    """Of an answer to this example; without any text it is 0."""
    texts = {name: paragraphs(text) for name, text in texts.items()}
    absent = missing(texts)
    findings = fact_check(texts, example.order, example.facts, example.settings)
    if absent or findings:
        many = len(absent) + len(findings)
        value = _UNFIT * (1 - min(many, _MOST_FINDINGS + 1) / (_MOST_FINDINGS + 1)) if any(texts.values()) else 0.0
        kinds = dict.fromkeys([*absent, *[f"fact check: {finding.kind}" for finding in findings]])
        return Score(round(value, 4), tuple(kinds), (*absent, *[finding.told for finding in findings]))
    failed = [name for name, holds in _QUALITIES.items() if not holds(texts, example)]
    return Score(round(FIT + (1 - FIT) * (1 - len(failed) / len(_QUALITIES)), 4), tuple(failed), tuple(failed))


def _says(text: str, what: str) -> bool:
    return folded(what).casefold() in folded(text).casefold()


def _lengths(texts: Mapping[str, str]) -> bool:
    return all(_SHORTEST <= len(text) <= _LONGEST for text in texts.values())


_QUALITIES: dict[str, Callable[[Mapping[str, str], Example], bool]] = {
    "complete: the greeting names the customer": lambda texts, example: _says(texts["greeting"], example.facts.customer_name),
    "complete: the greeting says thanks": lambda texts, _: bool(_THANKS.search(texts["greeting"])),
    "complete: the summary names order and total": lambda texts, example: (
        _says(texts["order_summary"], example.facts.order_id) and _says(texts["order_summary"], example.facts.total)
    ),
    "complete: the summary names every item": lambda texts, example: all(
        _says(texts["order_summary"], item.name) for item in example.facts.items
    ),
    "complete: the next steps give the delivery estimate": lambda texts, example: _says(
        texts["next_steps"], example.facts.estimated_delivery
    ),
    "complete: the last text is about tracking": lambda texts, _: bool(_TRACKING.search(texts["tracking_info"])),
    "tone: no shouting": lambda texts, _: not any(_SHOUTED.search(text) or text.count("!") > 2 or "!!" in text for text in texts.values()),
    "tone: neither curt nor long": lambda texts, _: _lengths(texts),
    "tone: says nothing twice": lambda texts, _: len({text.casefold() for text in texts.values()}) == len(texts),
}
