"""How good the texts of an answer are, as a number between 0 and 1.

Whether they may be sent comes first: each reason why not keeps the score further below `FIT`. Texts that may be sent have at least
`FIT`; the rest is for tone. So no gain in tone makes up for one text that a customer would never see.
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
"""Characters of one text, its slots not filled."""


class Score(NamedTuple):
    """What the metric says of one answer."""

    value: float
    reasons: tuple[str, ...]
    """Why the texts may not be sent, or what would make them better."""

    @property
    def fit(self) -> bool:
        """Whether the texts may be sent."""
        return self.value >= FIT


def score(answer: Any, code: str) -> Score:
    """Of an answer in the language of this code. 0 without any text."""
    texts = {name: clean(text) for name, text in texts_of(answer).items()}
    if not any(texts.values()):
        return Score(0.0, ("no text that can be read",))
    if found := problems(texts, code):
        return Score(round(_UNFIT * (1 - min(len(found), _MOST_REASONS) / (_MOST_REASONS + 1)), 4), tuple(found))
    qualities = _qualities(texts)
    failed = [name for name, holds in qualities.items() if not holds]
    return Score(round(1 - (1 - FIT) * len(failed) / len(qualities), 4), tuple(failed))


def metric(example: Any, prediction: Any, trace: Any = None, name: Any = None, name_trace: Any = None) -> Any:  # noqa: ARG001 - DSPy's
    """The score as DSPy wants it: a number, and for GEPA, which names the predictor, with the reasons in words."""
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
