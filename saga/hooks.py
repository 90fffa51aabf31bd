"""What a saga's owner adds to the engine: its outcomes, columns of its own, and what else commits when an
instance ends or is postponed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from saga.outcome import COMPENSATED, COMPLETED, NEEDS_ATTENTION, Compensation

if TYPE_CHECKING:
    from saga.database import Tx
    from saga.errors import StepError
    from saga.instance import SagaInstance

P = TypeVar("P")


@dataclass(frozen=True, slots=True)
class Ending(Generic[P]):
    """An instance that reaches its outcome."""

    instance: SagaInstance[P]
    outcome: str
    compensations: Sequence[Compensation]
    """In the sequence in which they ran."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The values of `Hooks.outcome_columns`."""
    extra: Any = None
    """The second value of `Hooks.prepare`."""


class Hooks(Generic[P]):
    """The extension points of a saga's owner. The defaults do nothing; methods with `tx` run inside the
    engine's transaction."""

    outcome_columns: ClassVar[Mapping[str, str]] = {}
    """Columns of the instances' table that are written together with the outcome, with their PostgreSQL
    types."""
    urgent: ClassVar[str] = "false"
    """An SQL condition on an instance `i`: if it holds, a postponed instance waits for a second at most.
    `:held_seconds` is how long its worker has held it: what came since then, its step may not have seen."""

    status_past_pivot: ClassVar[str] = "past_pivot"
    """The `status` of an open instance past the pivot. An owner's pivot may write it, with a condition on the
    cancel request, so that an instance is never both past the pivot and cancelled before it."""

    def outcome(self, instance: SagaInstance[P], compensations: Sequence[Compensation]) -> str:
        """Returns the outcome: `completed`, or `compensated` if a step failed; an owner may distinguish more
        cases. Never called for an instance with a compensation that is still due, which is `needs_attention`.
        """
        return COMPLETED if instance.failure is None else COMPENSATED

    def begun_elsewhere(self, instance: SagaInstance[P]) -> Sequence[str]:
        """Returns the steps whose effect may exist before they begin, because somebody else caused it: their
        compensations are due when the instance fails. Must not depend on the payload, which may be invalid.
        """
        return ()

    def prepare(self, instance: SagaInstance[P], outcome: str) -> tuple[Mapping[str, Any], Any]:
        """Returns the values of `outcome_columns`, and what `ended` needs. Runs before the transaction, as it
        may take long."""
        return {}, None

    async def ended(self, tx: Tx, endings: Sequence[Ending[P]]) -> None:
        """Commits with the outcomes, such as messages to send."""

    def committed(self, endings: Sequence[Ending[P]]) -> None:
        """Is called once the outcomes are committed."""

    async def before_postponing(
        self, instances: Sequence[SagaInstance[P]], seconds: float, error: StepError | None
    ) -> None:
        """Runs before the transaction that postpones the instances, for effects outside the database."""

    async def postponed(
        self, tx: Tx, instances: Sequence[SagaInstance[P]], seconds: float, error: StepError | None
    ) -> None:
        """Commits with the postponement."""

    def redacted(self, error: StepError, instance: SagaInstance[P]) -> StepError:
        """Returns the error without private data, before it is stored or logged."""
        return error

    def redacted_text(self, text: str, instance: SagaInstance[P]) -> str:
        """Returns the text, such as a traceback, without private data, before it is logged."""
        return text


def outcome_of(instance: SagaInstance[P], compensations: Sequence[Compensation]) -> str:
    """Returns where the instance ends: in `needs_attention` while a compensation is due, else where the
    owner's hook says."""
    if instance.failure is not None and instance.undo_plan():
        return NEEDS_ATTENTION
    return instance.store.hooks.outcome(instance, compensations)
