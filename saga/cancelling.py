"""Cancel requests. A requested cancellation happens, whatever dies: the worker that has the instance sees the
request, or the one that claims it next.

Before the pivot the instance is compensated as if a step had failed. An instance that completed is open
again, and its pivot is compensated, too. All functions take a connection in the caller's transaction; with an
asynchronous one, use `await tx.run_sync(function, ...)`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import Connection

from saga.outcome import COMPLETED
from saga.store import SagaStore, sql
from saga.wakeup import WAITING, notification

_LOCK = sql(
    "SELECT outcome, failure IS NOT NULL AS failed, cancel_requested_at FROM {instances} "
    "WHERE id = :id FOR UPDATE"
)
# A completed instance is open again, and no worker has it; one that a worker has stays with it.
_REQUEST = sql(
    """
    UPDATE {instances}
    SET cancel_requested_at = clock_timestamp(), cancel_reason = :reason, cancel_requested_by = :by,
        not_before = NULL, status = CASE WHEN outcome IS NULL THEN status ELSE :past_pivot END,
        outcome = NULL, finished_at = NULL
    WHERE id = :id
    """
)
_WITHDRAW = sql(
    """
    UPDATE {instances}
    SET cancel_requested_at = clock_timestamp(), cancel_reason = :reason, cancel_requested_by = :by,
        not_before = NULL
    WHERE (id = :id OR flow_run_id = :run) AND outcome IS NULL AND failure IS NULL
      AND cancel_requested_at IS NULL AND status <> :past_pivot
    RETURNING id
    """
)


class Asked(StrEnum):
    """What became of a request."""

    ASKED = "asked"
    """It is stored; the instance is going to be compensated."""
    KNOWN = "known"
    """It was requested before, or the instance is being compensated for another reason: nothing changed."""
    ENDED = "ended"
    """The instance has ended, and there is nothing to compensate."""


def request_cancellation(
    connection: Connection, store: SagaStore[Any], instance_id: str, *, reason: str, by: str
) -> Asked | None:
    """Stores a cancel request for the instance, whether or not it is past the pivot. None: there is no such
    instance."""
    row = connection.execute(_LOCK(store), {"id": instance_id}).one_or_none()
    if row is None:
        return None
    if row.outcome not in {None, COMPLETED}:
        return Asked.ENDED
    if row.failed or row.cancel_requested_at is not None:
        return Asked.KNOWN
    connection.execute(
        _REQUEST(store),
        {"id": instance_id, "reason": reason, "by": by, "past_pivot": store.hooks.status_past_pivot},
    )
    connection.execute(notification(store, WAITING))
    return Asked.ASKED


def withdraw(
    connection: Connection,
    store: SagaStore[Any],
    *,
    instance_id: str | None,
    flow_run_id: str | None,
    reason: str,
    by: str,
) -> list[str]:
    """Stores cancel requests for this instance, and for those that this run has, or had last, unless they are
    past the pivot: sending those back is a decision of its own. Returns the ids of those for which there was
    no request, and no failure, before."""
    asked = {
        "id": instance_id,
        "run": flow_run_id,
        "reason": reason,
        "by": by,
        "past_pivot": store.hooks.status_past_pivot,
    }
    found = list(connection.execute(_WITHDRAW(store), asked).scalars())
    if found:
        connection.execute(notification(store, WAITING))
    return found
