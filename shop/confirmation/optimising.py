"""Runs one optimisation: evaluates the program in use, lets DSPy compile another one, evaluates that, and
saves it if it is better.

The metric rates the texts of an answer between 0 and 1. Each reason why they may not be sent lowers the score
below `FIT`. Texts that may be sent have at least `FIT`; the rest rates the tone. So tone never outweighs a
text that would not be sent.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import dspy  # type: ignore[import-untyped]

from shop.confirmation import program
from shop.confirmation.language_model import LocalModelUnavailable, context, reflection_model
from shop.confirmation.program import Program
from shop.confirmation.program_versions import Optimizer
from shop.confirmation.signature import ConfirmationWriter, as_demonstration, examples, texts_of
from shop.confirmation.slots import clean, problems
from shop.settings import Settings

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


_CALL_SECONDS = 60
"""Limits one answer, in seconds. Generous: no order waits for these texts."""
_LONGEST_INSTRUCTIONS = 6000
"""Limits the instructions, in characters, because they are sent with every order."""


class CannotOptimize(Exception):
    """A model is missing or did not answer. Has only the type of its error: the text may contain keys."""


class Stopped(Exception):
    """The run was cancelled."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    program: Program
    results: Sequence[tuple[Any, Any, Score]]
    """Example, answer and score."""

    @property
    def score(self) -> float:
        """The mean, between 0 and 1."""
        return sum(found.value for *_, found in self.results) / len(self.results)

    @property
    def fit(self) -> int:
        """The number of answers that may be sent."""
        return sum(found.fit for *_, found in self.results)

    @property
    def reasons(self) -> Counter[str]:
        """The number of answers per fault."""
        return Counter(reason for *_, found in self.results for reason in found.reasons)

    def better_than(self, other: Evaluation) -> bool:
        """Whether the score is higher and no fewer texts may be sent."""
        return self.score > other.score + 1e-9 and self.fit >= other.fit

    def __str__(self) -> str:
        return f"score {self.score:.3f}, {self.fit} of {len(self.results)} texts may be sent"


@dataclass(frozen=True, slots=True)
class Optimized:
    optimizer: Optimizer
    model: str
    learned_from: int
    before: Evaluation
    after: Evaluation
    saved: Program | None
    """None if it was not better; the program in use stays."""
    seconds: float


def run(
    settings: Settings,
    wanted: Optimizer,
    *,
    shown: int,
    calls: int,
    stop: threading.Event,
    report: Callable[[str], None],
    by: str,
) -> Optimized:
    """Runs one optimisation. `shown` limits the demonstrations; `calls` approximately limits the attempts of
    GEPA and MIPRO. `by`: who started it; stored with the program. Blocks, for minutes with a slow model.
    Raises CannotOptimize, Stopped, OSError or SQLAlchemyError; then nothing was saved."""
    optimizer = _choose(wanted, settings)
    began = time.monotonic()
    training, held_out = examples("training", settings), examples("evaluation", settings)
    patient = settings.with_values(
        CONFIRMATION_TIMEOUT_SECONDS=max(settings.confirmation.timeout_seconds, _CALL_SECONDS)
    )
    with _conversation(patient, stop):
        before = _evaluate(program.in_use(settings), held_out, patient, stop)
        report(f"the program in use ({before.program.version}): {before}")
        writer = _compiled(optimizer, training, patient, shown=shown, calls=calls, stop=stop)
        after = _evaluate(Program(writer, "not saved"), held_out, patient, stop)
    report(f"the program that {optimizer} made from {len(training)} examples: {after}")
    remark = f"{optimizer} for {settings.language_model.model}: {before.score:.3f} before, {after}"
    saved = program.save(writer, settings, by=by, remark=remark) if after.better_than(before) else None
    return Optimized(
        optimizer,
        settings.language_model.model or "",
        len(training),
        before,
        after,
        saved,
        time.monotonic() - began,
    )


def _choose(wanted: Optimizer, settings: Settings) -> Optimizer:
    if settings.language_model.model is None:
        raise CannotOptimize("DSPY_MODEL is not set: set the language model to optimise for")
    if wanted is Optimizer.GEPA and settings.language_model.reflection_model is None:
        raise CannotOptimize("GEPA needs a model that analyses faults: set DSPY_REFLECTION_MODEL")
    if wanted is Optimizer.AUTO:
        return Optimizer.GEPA if settings.language_model.reflection_model else Optimizer.BOOTSTRAP
    return wanted


@contextmanager
def _conversation(settings: Settings, stop: threading.Event) -> Iterator[None]:
    """Configures DSPy with the model of these settings. It stops at the first error and does not log: its
    logs would contain the errors' texts."""
    log = logging.getLogger("dspy")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with dspy.context(**context(settings), max_errors=1, trace=[]):
            yield
    except LocalModelUnavailable as error:
        raise CannotOptimize(str(error)) from None
    except Exception as error:  # noqa: BLE001 - any error of a provider's library
        if stop.is_set():
            raise Stopped from None
        raise CannotOptimize(f"the model did not answer: {type(error).__name__}") from None
    finally:
        log.setLevel(level)


def _evaluate(
    evaluated: Program, held_out: Sequence[Any], settings: Settings, stop: threading.Event
) -> Evaluation:
    """Evaluates each example once, at the first attempt. The first example is requested twice, because
    `dspy.Evaluate` does not report which error ended it."""
    evaluated.writer(**held_out[0].inputs())
    found = dspy.Evaluate(
        devset=list(held_out), metric=_stoppable(stop), num_threads=settings.confirmation.concurrency
    )(evaluated.writer)
    return Evaluation(
        evaluated, [(example, answer, score(answer, example.code)) for example, answer, _ in found.results]
    )


def _compiled(
    optimizer: Optimizer,
    training: list[Any],
    settings: Settings,
    *,
    shown: int,
    calls: int,
    stop: threading.Event,
) -> ConfirmationWriter:
    measure, threads, half = _stoppable(stop), settings.confirmation.concurrency, len(training) // 2
    demonstrations = {
        "max_bootstrapped_demos": max(1, shown - 1),
        "max_labeled_demos": shown,
        "metric_threshold": FIT,
    }
    match optimizer:
        case Optimizer.GEPA:
            gepa = dspy.GEPA(
                metric=measure,
                max_metric_calls=calls,
                reflection_lm=reflection_model(settings),
                num_threads=threads,
                use_merge=False,
            )
            learned = gepa.compile(ConfirmationWriter(), trainset=training[:half], valset=training[half:])
        case Optimizer.MIPRO:
            mipro = dspy.MIPROv2(
                metric=measure, auto=None, num_candidates=4, num_threads=threads, **demonstrations
            )
            trials = max(2, calls // (len(training) - half))
            learned = mipro.compile(
                ConfirmationWriter(),
                trainset=training[:half],
                valset=training[half:],
                num_trials=trials,
                minibatch=False,
            )
        case _:
            learned = dspy.BootstrapFewShot(metric=measure, **demonstrations).compile(
                ConfirmationWriter(), trainset=training
            )
    return _cleaned(learned, training)


def _cleaned(learned: ConfirmationWriter, training: list[Any]) -> ConfirmationWriter:
    """Returns a new writer that has only instructions of limited length, and demonstrations that may be
    sent themselves."""
    codes = {example.language: example.code for example in training}
    writer = ConfirmationWriter()
    writer.write.signature = writer.write.signature.with_instructions(
        learned.write.signature.instructions[:_LONGEST_INSTRUCTIONS]
    )
    writer.write.demos = [
        as_demonstration(demo) for demo in learned.write.demos if score(demo, codes[demo.language]).fit
    ]
    return writer


def _stoppable(stop: threading.Event) -> Callable[..., Any]:
    def measure(
        example: Any, prediction: Any, trace: Any = None, name: Any = None, name_trace: Any = None
    ) -> Any:
        if stop.is_set():
            raise Stopped
        return metric(example, prediction, trace, name, name_trace)

    return measure
