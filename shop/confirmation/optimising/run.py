"""One optimisation from end to end: evaluate what is in use, learn, evaluate again, save what is better."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from shop.confirmation import program_file
from shop.confirmation.optimising.choice import NoModel, Optimizer, choose
from shop.confirmation.optimising.evaluate import Evaluation, Stopped, evaluate, is_better
from shop.confirmation.optimising.examples import examples
from shop.confirmation.optimising.optimizers import optimize
from shop.confirmation.program import Program
from shop.settings import Settings

_CALL_SECONDS = 60
"""For one answer: nobody waits for these texts."""


@dataclass(frozen=True, slots=True)
class Optimized:
    """What came of it."""

    optimizer: Optimizer
    model: str
    learned_from: int
    before: Evaluation
    after: Evaluation
    saved: Program | None
    """None if it was not better; what was in use stays."""
    warning: str | None
    """Why a saved program is not in use, if so."""
    seconds: float


def run(settings: Settings, wanted: Optimizer, *, shown: int, calls: int, stop: threading.Event, tell: Callable[[str], None]) -> Optimized:
    """Blocks, for minutes with a slow model. Raises NoModel, NoReflectionModel, ModelUnavailable, LocalModelMissing, Stopped or OSError;
    then nothing was saved."""
    if settings.dspy_model is None:
        raise NoModel("set DSPY_MODEL: without a language model there is nothing to optimise")
    began = time.monotonic()
    training, held_out = examples("training", settings), examples("evaluation", settings)
    optimizer = choose(wanted, len(training), settings)
    patient = settings.model_copy(update={"confirmation_timeout_seconds": max(settings.confirmation_timeout_seconds, _CALL_SECONDS)})
    in_use, warning = program_file.in_use(settings)
    before = evaluate(in_use, held_out, patient, stop)
    tell(f"the program in use ({in_use.version}): {_said(before)}")
    learned = optimize(optimizer, training, patient, shown=shown, calls=calls, stop=stop)
    after = evaluate(learned, held_out, patient, stop)
    tell(f"what {optimizer} learned from {len(training)} orders: {_said(after)}")
    if stop.is_set():
        raise Stopped
    saved = None
    if is_better(after, before):
        saved = program_file.save(
            settings.confirmation_program,
            learned,
            model=settings.dspy_model,
            optimizer=str(optimizer),
            score_before=before.score,
            score=after.score,
        )
    seconds = time.monotonic() - began
    return Optimized(optimizer, settings.dspy_model, len(training), before, after, saved, warning, seconds)


def _said(found: Evaluation) -> str:
    return f"score {found.score:.3f}, {found.fit} of {len(found.results)} texts may leave"
