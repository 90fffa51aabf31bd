"""The typed errors of steps and of whole sagas. A business refusal is an exception with a type.

`retryable` says whether the same attempt can succeed later; it controls the retries of steps. `details()` is
what the journal stores and people read. A saga's owner derives the refusals of its steps from `StepError`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

_INFRASTRUCTURE_PAUSE_SECONDS = 15.0
"""Pause of an instance after an infrastructure error, in seconds."""


class StepError(Exception):
    """The typed failure of a step for one instance."""

    code: ClassVar[str] = "step_error"
    refusal: ClassVar[bool] = False
    """Whether it is a business refusal: nothing is at fault, so that no error rate counts it."""
    quotes_external_system: ClassVar[bool] = False
    """Whether its text contains an external system's words, which may repeat what a customer typed."""
    retryable: bool = False
    retry_after: float | None = None
    """Seconds after which the same attempt may succeed. The instance is postponed for that time, and nothing
    is decided about it."""
    keeps_resources: ClassVar[bool] = False
    """Whether a postponed instance keeps what it has reserved."""

    @property
    def kind(self) -> str:
        """The type's name in the journal."""
        return self.code

    def details(self) -> dict[str, Any]:
        """JSON-ready facts for the journal: `code`, `message`, `retryable`, and the type's own fields."""
        return {"code": self.code, "message": str(self), "retryable": self.retryable}

    def reasons(self) -> list[str]:
        """Returns what a person reads, one line for each problem."""
        return [str(self)]

    def reword(self, change: Callable[[str], str]) -> None:
        """Changes its text with the function; a subclass that stores the text elsewhere changes it there,
        too."""
        self.args = (change(str(self)),)


class InfrastructureError(StepError):
    """The machine, the network or the database's tables are at fault: the instance is postponed, and nothing
    is decided about it. The message names the exception's type, not its text, which may contain anything."""

    code = "infrastructure"
    retryable = True

    def __init__(self, step: str, error: BaseException) -> None:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
        super().__init__(f"{step} met an infrastructure error: {type(error).__name__}{why and f' ({why})'}")
        self.retry_after = _INFRASTRUCTURE_PAUSE_SECONDS
        self.__cause__ = error


class StepTimeout(StepError):
    """A step exceeded its time limit. Its result is unclear, so it counts as done until proven otherwise."""

    code = "step_timeout"
    retryable = True

    def __init__(self, step: str, seconds: float) -> None:
        super().__init__(f"{step} gave no answer within {seconds:g} s")


class DatabaseTimeout(StepTimeout):
    """The database took longer than a step's time limit. The effect was rolled back or is unclear, and the
    instance is postponed."""

    code = InfrastructureError.code

    def __init__(self, step: str, seconds: float) -> None:
        super().__init__(step, seconds)
        self.retry_after = _INFRASTRUCTURE_PAUSE_SECONDS


class UnexpectedStepError(StepError):
    """The step's own code raised an unexpected exception. The message names its type, not its text, which may
    contain anything."""

    code = "step_broken"

    def __init__(self, step: str, error: BaseException) -> None:
        super().__init__(f"{step} failed unexpectedly: {type(error).__name__}")
        self.__suppress_context__ = True  # so that tracebacks do not show the original's text


class UnknownStep(StepError):
    """The instance's journal has steps that this worker's saga lacks: a worker of another version began it
    and has to continue it."""

    code = "unknown_step"
    retryable = True

    def __init__(self, steps: Iterable[str]) -> None:
        super().__init__(
            f"its journal has {', '.join(sorted(steps))}, "
            "which the saga of this worker's version does not know"
        )


class BatchFailing(StepError):
    """So many instances of a batch failed transiently that the cause is systemic:
    the whole batch is retried."""

    code = "batch_struggling"
    retryable = True

    def __init__(self, step: str, failing: int, of: int) -> None:
        super().__init__(f"{step} failed transiently for {failing} of {of} instances")


class SagaCancelled(StepError):
    """The instance, or its run, was cancelled before the point of no return."""

    code = "cancelled"
    refusal = True

    def __init__(self, reason: str | None = None) -> None:
        super().__init__("the run was cancelled" if reason is None else f"cancelled: {reason}")


class SagaReturned(StepError):
    """The instance was cancelled after the point of no return: the pivot is compensated as well."""

    code = "returned"
    refusal = True

    def __init__(self, reason: str) -> None:
        super().__init__(f"returned: {reason}")


class TooManyTakeovers(StepError):
    """Too many workers died while this was their only instance: it would kill the next one, too."""

    code = "given_up"

    def __init__(self, deaths: int) -> None:
        super().__init__(f"its workers died {deaths} times while they had no other instance")


class RecordedFailure(StepError):
    """A failure as stored, of an instance that another worker began to compensate."""

    def __init__(self, details: Mapping[str, Any]) -> None:
        self._details = dict(details)
        super().__init__(str(details.get("message", "")))

    @property
    def kind(self) -> str:
        return str(self._details.get("code", self.code))

    def details(self) -> dict[str, Any]:
        return self._details

    def reasons(self) -> list[str]:
        return [str(reason) for reason in self._details.get("reasons", [str(self)])]


class LeaseLost(Exception):
    """Another worker has taken the instance over: this one must not write about it any more."""
