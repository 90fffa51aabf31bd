"""What a program is worth: its texts for the invented orders that no program learns from."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import dspy  # type: ignore[import-untyped]

from shop.confirmation.language_model import LocalModelMissing, context
from shop.confirmation.optimising.examples import Example
from shop.confirmation.optimising.metric import Score, score
from shop.confirmation.program import Program
from shop.confirmation.signature import ConfirmationWriter, texts_of
from shop.settings import Settings


class ModelUnavailable(Exception):
    """The model did not answer, so nothing can be compared. Names the error's type only: its text may hold keys."""


class Stopped(Exception):
    """Whoever asked for it does not want it any more."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One example: the model's texts and what the metric says of them."""

    example: Example
    texts: dict[str, str]
    score: Score


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One program on the evaluation set."""

    program: Program
    results: tuple[Evaluated, ...]

    @property
    def score(self) -> float:
        """The mean, between 0 and 1."""
        return sum(result.score.value for result in self.results) / len(self.results)

    @property
    def fit(self) -> int:
        """How many texts may leave."""
        return sum(result.score.fit for result in self.results)

    @property
    def failures(self) -> Counter[str]:
        """How many texts failed each check."""
        return Counter(failure for result in self.results for failure in result.score.failures)


def evaluate(program: Program, examples: Sequence[Example], settings: Settings, stop: threading.Event) -> Evaluation:
    """Each example once, at the first attempt, `settings.confirmation_concurrency` at a time. An answer that cannot be read
    counts as no text. Raises ModelUnavailable if any example is not answered at all, and Stopped."""

    def one(example: Example) -> Evaluated:
        if stop.is_set():
            raise Stopped
        texts = ask(program, example, settings)
        return Evaluated(example, texts, score(texts, example))

    with ThreadPoolExecutor(settings.confirmation_concurrency, thread_name_prefix="evaluate") as threads:
        return Evaluation(program, tuple(threads.map(one, examples)))


def ask(program: Program, example: Example, settings: Settings) -> dict[str, str]:
    """The texts for one example, as they came. Raises ModelUnavailable."""
    try:
        with dspy.context(**context(settings), max_trace_size=0):
            return texts_of(ConfirmationWriter(program)(**example.inputs))
    except dspy.utils.exceptions.AdapterParseError:
        return {}
    except Exception as error:  # noqa: BLE001 - whatever a provider's library raises
        raise unavailable(error) from None


def unavailable(error: Exception) -> ModelUnavailable:
    """What is said of a model's error."""
    why = str(error) if isinstance(error, LocalModelMissing) else type(error).__name__
    return ModelUnavailable(f"the model did not answer: {why}")


def is_better(after: Evaluation, before: Evaluation) -> bool:
    """A higher score, and no fewer texts that may leave. A tie keeps what there was."""
    return after.score > before.score + 1e-9 and after.fit >= before.fit
