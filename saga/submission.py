"""Stores new instances, and reads their outcomes. A stored instance reaches an outcome."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from saga.database import Tx
from saga.store import SagaStore, sql
from saga.wakeup import WAITING, notification

_INSERT = sql(
    "INSERT INTO {instances} (id, content, fingerprint) VALUES (:id, CAST(:content AS jsonb), :fingerprint) "
    "ON CONFLICT (id) DO NOTHING RETURNING id"
)
_FINGERPRINT = sql("SELECT fingerprint FROM {instances} WHERE id = :id")
_OUTCOME = sql("SELECT outcome FROM {instances} WHERE id = :id")


class InstanceConflict(ValueError):
    """An instance with this id, but with other content, is already stored."""


async def submit(tx: Tx, store: SagaStore[Any], instance_id: str, content: Mapping[str, Any]) -> bool:
    """Stores the instance in the caller's transaction. Returns False if the same one is stored already.
    Raises `InstanceConflict`."""
    serialized = orjson.dumps(dict(content), default=str, option=orjson.OPT_SORT_KEYS)
    fingerprint = hashlib.sha256(serialized).hexdigest()
    stored = {"id": instance_id, "content": serialized.decode(), "fingerprint": fingerprint}
    if (await tx.execute(_INSERT(store), stored)).scalar() is not None:
        await tx.execute(notification(store, WAITING))
        return True
    if (await tx.execute(_FINGERPRINT(store), {"id": instance_id})).scalar_one() != fingerprint:
        raise InstanceConflict(
            f"{instance_id!r} is stored with other content: give the new instance its own id"
        )
    return False


async def read_outcome(tx: Tx, store: SagaStore[Any], instance_id: str) -> str | None:
    """Returns the instance's outcome; None while it has none, or is not stored."""
    outcome: str | None = (await tx.execute(_OUTCOME(store), {"id": instance_id})).scalar()
    return outcome
