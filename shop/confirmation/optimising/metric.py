"""The metric: rates the texts of an answer between 0 and 1.

Each reason why the texts may not be sent lowers the score below `FIT`. Texts that may be sent have at least
`FIT`; the rest rates the tone. So tone never outweighs a text that would not be sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import dspy  # type: ignore[import-untyped]

from shop.confirmation.signature import texts_of
from shop.confirmation.slots import clean, problems

FIT = 0.7
_UNFIT = 0.4
_MOST_REASONS = 5
_THANKS = re.compile(r"\bthank|\bgrateful|\bappreciat|dank", re.IGNORECASE)
_SHORTEST, _LONGEST = 15, 300
"""Range of one text's length before its slots are filled, in characters."""


class Score(NamedTuple):
    """The metric's result for one answer."""

    value: float
    reasons: tuple[str, ...]
    """Why the texts may not be sent, or what would improve them."""

    @property
    def fit(self) -> bool:
        """Whether the texts may be sent."""
        return self.value >= FIT


def score(answer: Any, code: str) -> Score:
    """Rates an answer in the language of this code. 0 without any text."""
    texts = {name: clean(text) for name, text in texts_of(answer).items()}
    if not any(texts.values()):
        return Score(0.0, ("no readable text",))
    if found := problems(texts, code):
        return Score(
            round(_UNFIT * (1 - min(len(found), _MOST_REASONS) / (_MOST_REASONS + 1)), 4), tuple(found)
        )
    qualities = _qualities(texts)
    failed = [name for name, holds in qualities.items() if not holds]
    return Score(round(1 - (1 - FIT) * len(failed) / len(qualities), 4), tuple(failed))


def metric(example: Any, prediction: Any, trace: Any = None, name: Any = None, name_trace: Any = None) -> Any:  # noqa: ARG001 - DSPy's
    """Returns the score in DSPy's form: a number, and for GEPA, which passes the predictor's name, with
    the reasons as text."""
    found = score(prediction, example.code)
    if name is None:
        return found.value
    return dspy.Prediction(score=found.value, feedback="\n".join(found.reasons) or "Nothing was wrong.")


def _qualities(texts: Mapping[str, str]) -> dict[str, bool]:
    return {
        "complete: the greeting says thanks": bool(_THANKS.search(texts["greeting"])),
        "tone: no shouting": not any(text.count("!") > 1 for text in texts.values()),
        "tone: neither curt nor long": all(_SHORTEST <= len(text) <= _LONGEST for text in texts.values()),
        "tone: says nothing twice": len({text.casefold() for text in texts.values()}) == len(texts),
    }
