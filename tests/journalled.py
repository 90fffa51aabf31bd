"""Writes to the journal as a worker does: one transaction each, for instances that it still holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from saga import journal
from saga.database import transaction
from saga.instance import Instance
from saga.journal import Record


async def write(step: str, instances: Iterable[Instance], status: str, **fields: Any) -> None:
    """Journals a step of those instances that are still held, in a transaction of its own."""
    async with transaction() as tx:
        held = await journal.verify_ownership(tx, instances)
        await journal.write(tx, [Record(instance, step, status, **fields) for instance in held])


async def begin(step: str, instances: Iterable[Instance], *, undo_due: bool = True) -> None:
    """Journals the intent, as an attempt of its own."""
    await write(step, instances, "begun", undo_due=undo_due)


async def end(step: str, instances: Iterable[Instance], **result: Any) -> None:
    """Journals that the step is done."""
    await write(step, instances, "done", result=result, undo_due=True, again=False)


async def begin_undo(step: str, instances: Iterable[Instance]) -> None:
    """Journals that the compensation is being tried."""
    async with transaction() as tx:
        await journal.begin_undo(tx, step, await journal.verify_ownership(tx, instances))


async def end_undo(
    step: str,
    instances: Iterable[Instance],
    result: dict[str, Any] | None,
    error: dict[str, Any] | None = None,
) -> None:
    """Journals how the compensation ended."""
    async with transaction() as tx:
        held = await journal.verify_ownership(tx, instances)
        await journal.write_undo(
            tx,
            step,
            [
                Record(instance, step, "failed" if error else "done", result=result, error=error)
                for instance in held
            ],
        )
