"""Discrepancies of orders that are for a person: found again, however long ago the money moved, until the books agree or the person says
that it may stay so.

What the two books say is part of which discrepancy it is: one that was accepted and has grown since is another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, text

from saga.database import as_json, sync_engine, transaction
from saga.failpoints import failpoint
from shop.reconciliation.discrepancy import Discrepancy
from shop.review import typed_text
from shop.review.entries import add_entry
from shop.review.errors import NothingToAccept
from shop.settings import settings

ACTION = "accept_discrepancies"
"""In the desk's book."""
_FORGET = text(
    "DELETE FROM discrepancy d WHERE d.order_id = ANY(CAST(:ids AS text[])) AND NOT EXISTS (SELECT 1 FROM "
    "jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(order_id text, digest text) WHERE r.order_id = d.order_id AND r.digest = d.digest)"
)
_REMEMBER = text(
    "INSERT INTO discrepancy (order_id, digest, kind) SELECT * FROM "
    "jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(order_id text, digest text, kind text) ON CONFLICT DO NOTHING"
)
_KNOWN = text("SELECT order_id, digest, since, accepted_at FROM discrepancy WHERE order_id = ANY(CAST(:ids AS text[]))")
_ACCEPT = text("UPDATE discrepancy SET accepted_at = now() WHERE order_id = :id AND accepted_at IS NULL")
_REMEMBERING, _ACCEPTING = failpoint("the commit of open discrepancies"), failpoint("the commit of accepting discrepancies")


async def remember(order_ids: Sequence[str], found: Sequence[Discrepancy]) -> list[Discrepancy]:
    """Of orders that were looked at closely just now, and all that was found about them: keeps what is open, and forgets what was and is
    not any more. Returns what was found but for what a person has accepted, each with when it was found first."""
    ids = [_storable(order_id) for order_id in order_ids]
    keys = {_key(d): d.kind.value for d in found if not d.mended}
    fields = [{"order_id": order_id, "digest": digest, "kind": kind} for (order_id, digest), kind in keys.items()]
    async with transaction(_REMEMBERING) as tx:
        await tx.execute(_FORGET, {"ids": ids, "rows": as_json(fields)})
        if not fields:
            return list(found)
        await tx.execute(_REMEMBER, {"rows": as_json(fields)})
        known = {(row.order_id, row.digest): row for row in (await tx.execute(_KNOWN, {"ids": ids})).all()}
    told = [d if d.mended else replace(d, since=known[_key(d)].since) for d in found]
    return [d for d in told if d.mended or known[_key(d)].accepted_at is None]


async def accept(order_id: str, *, accepted_by: str, reason: str, started_by: str | None = None) -> int:
    """A person says that what is open about this order may stay as it is; who and why are kept. Returns how many discrepancies that are.
    Raises `NothingToAccept` and `ResolutionIncomplete`."""
    asked = _checked(order_id, accepted_by, reason, started_by)
    async with transaction(_ACCEPTING) as tx:
        return await tx.run_sync(_accept, asked)


def accept_sync(order_id: str, *, accepted_by: str, reason: str, started_by: str | None = None) -> int:
    """The same, for callers without an event loop."""
    asked = _checked(order_id, accepted_by, reason, started_by)
    with sync_engine(settings().database_url).begin() as connection:
        return _accept(connection, asked)


@dataclass(frozen=True, slots=True)
class _Acceptance:
    order_id: str
    by: str
    reason: str
    started_by: str | None


def _checked(order_id: str, accepted_by: str, reason: str, started_by: str | None) -> _Acceptance:
    by = typed_text.required("accepted_by", accepted_by, "say who decides this; it is kept with the order")
    why = typed_text.required("reason", reason, "say why the books may differ here; it is kept with the order")
    return _Acceptance(_storable(order_id.strip()), by, why, typed_text.known(started_by))


def _accept(connection: Connection, asked: _Acceptance) -> int:
    accepted = connection.execute(_ACCEPT, {"id": asked.order_id}).rowcount
    if not accepted:
        raise NothingToAccept(asked.order_id)
    add_entry(connection, asked.order_id, ACTION, by=asked.by, started_by=asked.started_by, reason=asked.reason)
    return accepted


def _storable(order_id: str) -> str:
    """The gateway's may hold what PostgreSQL cannot store."""
    return order_id.replace("\0", "\ufffd")


def _key(found: Discrepancy) -> tuple[str, str]:
    what = "\n".join((found.kind.value, found.ours, found.theirs, *found.payment_ids))
    return _storable(found.order_id or ""), hashlib.sha256(what.encode(errors="replace")).hexdigest()
