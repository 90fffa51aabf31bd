"""DSPy's optimisers, set up for these texts; `choice` says which one is taken."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dspy  # type: ignore[import-untyped]

from shop.confirmation.language_model import context, reflection_model
from shop.confirmation.optimising.choice import Optimizer
from shop.confirmation.optimising.evaluate import Stopped, unavailable
from shop.confirmation.optimising.examples import Example, demonstration
from shop.confirmation.optimising.metric import FIT, Score, score
from shop.confirmation.program import Program
from shop.confirmation.signature import ConfirmationWriter, texts_of
from shop.settings import Settings

_LONGEST = 6000
"""Characters of instructions: they are sent with every order."""


def optimize(
    optimizer: Optimizer, examples: Sequence[Example], settings: Settings, *, shown: int, calls: int, stop: threading.Event
) -> Program:
    """A program that learned from these examples: at most `shown` demonstrations; `calls` bounds GEPA's and MIPRO's tries,
    about. Its demonstrations are of these examples and of nothing else. Raises ModelUnavailable and Stopped."""
    metric = _Metric(examples, stop)
    rows = [dspy.Example(**_labelled(example)).with_inputs(*example.inputs) for example in examples]
    writer = ConfirmationWriter()
    with dspy.context(**context(settings), max_errors=len(rows), trace=[]), _quiet():
        try:
            learned = _compile(optimizer, writer, rows, metric, settings, shown=shown, calls=calls)
        except dspy.utils.exceptions.LMError as error:
            raise unavailable(error) from None
    if stop.is_set():
        raise Stopped
    program: Program = learned.program()
    return _checked(program, examples)


@contextmanager
def _quiet() -> Iterator[None]:
    """An optimiser logs every error of the model with its text, which may hold a key."""
    log = logging.getLogger("dspy")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)


def _compile(optimizer: Optimizer, writer: Any, rows: list[Any], metric: _Metric, settings: Settings, *, shown: int, calls: int) -> Any:
    threads = settings.confirmation_concurrency
    if optimizer is Optimizer.GEPA:
        gepa = dspy.GEPA(
            metric=metric.with_words, max_metric_calls=calls, reflection_lm=reflection_model(settings), num_threads=threads, use_merge=False
        )
        half = len(rows) // 2
        return gepa.compile(writer, trainset=rows[:half], valset=rows[half:])
    bootstrapped, labelled = max(1, shown - 1), shown
    if optimizer is Optimizer.MIPRO:
        mipro = dspy.MIPROv2(
            metric=metric,
            auto=None,
            num_candidates=4,
            num_threads=threads,
            max_errors=len(rows),
            max_bootstrapped_demos=bootstrapped,
            max_labeled_demos=labelled,
            metric_threshold=FIT,
        )
        half = len(rows) // 2
        trials = max(2, calls // max(1, len(rows) - half))
        return mipro.compile(writer, trainset=rows[:half], valset=rows[half:], num_trials=trials, minibatch=False)
    bootstrap = dspy.BootstrapFewShot(
        metric=metric, metric_threshold=FIT, max_bootstrapped_demos=bootstrapped, max_labeled_demos=labelled, max_errors=len(rows)
    )
    return bootstrap.compile(writer, trainset=rows)


class _Metric:
    """The metric as DSPy calls it."""

    def __init__(self, examples: Sequence[Example], stop: threading.Event) -> None:
        self._examples = {example.facts.order_id: example for example in examples}
        self._stop = stop

    def __call__(self, row: Any, prediction: Any, trace: Any = None) -> float:  # noqa: ARG002 - DSPy's
        return self._score(row, prediction).value

    def with_words(self, row: Any, prediction: Any, trace: Any = None, name: Any = None, name_trace: Any = None) -> Any:  # noqa: ARG002 - DSPy's
        found = self._score(row, prediction)
        return dspy.Prediction(score=found.value, feedback="\n".join(found.told) or "Nothing was wrong.")

    def _score(self, row: Any, prediction: Any) -> Score:
        if self._stop.is_set():
            raise Stopped
        return score(texts_of(prediction), self._examples[row.order_id])


def _labelled(example: Example) -> Mapping[str, Any]:
    return demonstration(example) if example.texts is not None else example.inputs


def _checked(program: Program, examples: Sequence[Example]) -> Program:
    """Demonstrations are of the examples, whole, and may leave; instructions are bounded."""
    known = {example.facts.order_id: example for example in examples}
    kept = []
    for demo in program.demonstrations:
        example = known.get(str(demo.get("order_id")))
        texts = {name: text for name, text in demo.items() if isinstance(text, str) and name not in (example.inputs if example else ())}
        if example is not None and score(texts, example).fit:
            kept.append({**demo, **example.inputs})
    return Program(program.version, (program.instructions or "")[:_LONGEST], tuple(kept))
