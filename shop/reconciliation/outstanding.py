"""Open discrepancies of orders. They are reported again, however old, until both sides agree or a person
accepts them.

The description of both sides is part of a discrepancy's identity: one that was accepted and has grown since
is a new one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, text

from saga.database import as_json, sync_engine, transaction
from saga.failpoints import failpoint
from shop.reconciliation.discrepancy import Discrepancy
from shop.review.actions import add_entry, required_text, system_text
from shop.review.errors import NothingToAccept
from shop.settings import settings

ACTION = "accept_discrepancies"
"""The action's name in the table desk_entry."""
_DELETE = text(
    "DELETE FROM discrepancy d WHERE d.order_id = ANY(CAST(:ids AS text[])) AND NOT EXISTS ("
    "SELECT 1 FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(order_id text, digest text) "
    "WHERE r.order_id = d.order_id AND r.digest = d.digest)"
)
_STORE = text(
    "INSERT INTO discrepancy (order_id, digest, kind) "
    "SELECT * FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(order_id text, digest text, kind text) "
    "ON CONFLICT DO NOTHING"
)
_KNOWN = text(
    "SELECT order_id, digest, since, accepted_at FROM discrepancy WHERE order_id = ANY(CAST(:ids AS text[]))"
)
_ACCEPT = text("UPDATE discrepancy SET accepted_at = now() WHERE order_id = :id AND accepted_at IS NULL")
_STORING = failpoint("the commit of open discrepancies")
_ACCEPTING = failpoint("the commit of accepting discrepancies")


async def remember(order_ids: Sequence[str], found: Sequence[Discrepancy]) -> list[Discrepancy]:
    """Stores the open discrepancies of orders that were just compared, and deletes those that are no longer
    found.

    Returns what was found without what a person has accepted, each with the time when it was first found.
    """
    ids = [_storable(order_id) for order_id in order_ids]
    keys = {_key(d): d.kind.value for d in found if not d.repaired}
    fields = [
        {"order_id": order_id, "digest": digest, "kind": kind} for (order_id, digest), kind in keys.items()
    ]
    async with transaction(_STORING) as tx:
        await tx.execute(_DELETE, {"ids": ids, "rows": as_json(fields)})
        if not fields:
            return list(found)
        await tx.execute(_STORE, {"rows": as_json(fields)})
        known = {(row.order_id, row.digest): row for row in (await tx.execute(_KNOWN, {"ids": ids})).all()}
    dated = [d if d.repaired else replace(d, since=known[_key(d)].since) for d in found]
    return [d for d in dated if d.repaired or known[_key(d)].accepted_at is None]


async def accept(order_id: str, *, accepted_by: str, reason: str, started_by: str | None = None) -> int:
    """Accepts the open discrepancies of an order: they may stay. Stores who decided it and why. Returns
    how many there were. Raises `NothingToAccept` and `ResolutionIncomplete`."""
    decided = _checked(accepted_by, reason, started_by)
    async with transaction(_ACCEPTING) as tx:
        return await tx.run_sync(_accept, order_id, decided)


def accept_sync(order_id: str, *, accepted_by: str, reason: str, started_by: str | None = None) -> int:
    """Runs `accept` for callers without an event loop."""
    decided = _checked(accepted_by, reason, started_by)
    with sync_engine(settings().database_url).begin() as connection:
        return _accept(connection, order_id, decided)


def _checked(accepted_by: str, reason: str, started_by: str | None) -> dict[str, str | None]:
    who = "give the name of the person who decides this; it is stored with the order"
    why = "say why the difference is acceptable; it is stored with the order"
    return {
        "by": required_text("accepted_by", accepted_by, who),
        "reason": required_text("reason", reason, why),
        "started_by": system_text(started_by),
    }


def _accept(connection: Connection, order_id: str, decided: Mapping[str, Any]) -> int:
    order_id = _storable(order_id.strip())
    accepted = connection.execute(_ACCEPT, {"id": order_id}).rowcount
    if not accepted:
        raise NothingToAccept(order_id)
    add_entry(connection, order_id, ACTION, **decided)
    return accepted


def _storable(order_id: str) -> str:
    """Replaces what PostgreSQL cannot store: the gateway's ids may contain NUL."""
    return order_id.replace("\0", "\ufffd")


def _key(found: Discrepancy) -> tuple[str, str]:
    what = "\n".join((found.kind.value, found.ours, found.theirs, *found.payment_ids))
    return _storable(found.order_id or ""), hashlib.sha256(what.encode(errors="replace")).hexdigest()
