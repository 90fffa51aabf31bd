"""Shares of limits that all workers have together: of the calls to an external system, of the consumers.

A share is written in the row of its holder's lease, and ends with the lease. So a holder that was killed,
that is paused, or whose machine is gone keeps nothing from others for longer than a lease lasts.

What all live holders have is never more than the limit: taking happens under a lock, and what is given back
is written when the calls have ended. If the holders want more than there is, each gets its fair share about a
second after calls of others have ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from saga.asyncio_tasks import cancel_and_wait
from saga.configuration import config
from saga.database import Tx, is_database_error, retry_while_database_down, transaction
from saga.lease import RENEWED, lease
from saga.limit import Limit, Turns
from saga.store import SagaStore, sql
from saga.wakeup import lock_number

log = logging.getLogger(__name__)

_LOCK = sql("SELECT pg_advisory_xact_lock(:lock)")
_HOLDERS = sql(
    "SELECT id, CAST(shares -> :name ->> 0 AS int) AS held, CAST(shares -> :name ->> 1 AS int) AS wanted, "
    "until > now() + make_interval(secs => :renewed) AS renewed "
    "FROM {leases} WHERE until > now() AND jsonb_exists(shares, :name) ORDER BY began_at, id"
)
_WRITE = sql(
    "UPDATE {leases} SET shares = shares || jsonb_build_object(CAST(:name AS text), "
    "jsonb_build_array(CAST(:held AS int), CAST(:wanted AS int))) WHERE id = :id AND until > now()"
)
_REMOVE = sql("UPDATE {leases} SET shares = shares - :name WHERE id = :id")
_END_SECONDS = 5
"""Limits the time for giving a share back. After that it ends with the lease."""
_CHECK_SECONDS = 1.0
"""Interval between two checks of a share."""
_WAIT_SECONDS = 0.1
"""Interval between two attempts to get something of a limit that is exhausted."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A worker that has something of a limit, or waits for it."""

    lease_id: UUID
    held: int
    wanted: int
    renewed: bool = True
    """Whether it renewed its lease on time. One that did not has probably died."""


async def holders(tx: Tx, store: SagaStore[Any], limit: Limit) -> list[Holder]:
    """Returns the holders of the limit whose leases are valid, and those that wait for it, in the sequence in
    which they began."""
    rows = await tx.execute(_HOLDERS(store), _about(limit))
    return [Holder(*row) for row in rows]


def holders_sync(connection: Connection, store: SagaStore[Any], limit: Limit) -> list[Holder]:
    """The same as `holders`, for callers without an event loop."""
    return [Holder(*row) for row in connection.execute(_HOLDERS(store), _about(limit))]


def _about(limit: Limit) -> dict[str, Any]:
    return {"name": limit.name, "renewed": config().lease_seconds * RENEWED}


def fair_shares(total: int, among: Sequence[Holder]) -> dict[UUID, int]:
    """Divides the limit: one for each holder, first for those that have nothing; then evenly, to each no more
    than it wants."""
    in_turn = sorted(among, key=lambda holder: holder.held > 0)
    shares = {holder.lease_id: 1 for holder in in_turn[:total] if holder.wanted > 0}
    left = total - len(shares)
    modest = sorted((holder for holder in in_turn if holder.lease_id in shares), key=lambda each: each.wanted)
    for number, holder in enumerate(modest):
        more = min(holder.wanted - 1, left // (len(modest) - number))
        shares[holder.lease_id] += more
        left -= more
    return shares


def _held(by: Iterable[Holder]) -> int:
    return sum(holder.held for holder in by)


class Share:
    """What one lease has of a limit."""

    def __init__(self, limit: Limit, store: SagaStore[Any], lease_id: UUID, wanted: int) -> None:
        self._limit, self._store, self._lease_id = limit, store, lease_id
        self._wanted = max(1, min(wanted, limit.most()))
        self.held = 0
        self._has_lease = True
        self.turns = Turns(0)
        """One for each call that the share allows."""

    async def take(self, seconds: float | None = None) -> bool:
        """Waits until the share is at least one, or this time is over (None: for as long as the lease is
        valid). Returns whether it is. Waits while the database is unavailable."""
        loop = asyncio.get_running_loop()
        until = None if seconds is None else loop.time() + seconds
        await retry_while_database_down(partial(self._write, self._wanted))
        while not self.held and (self._has_lease if until is None else loop.time() < until):
            await asyncio.sleep(_WAIT_SECONDS)
            await retry_while_database_down(self.check)
        return self.held > 0

    async def check(self) -> None:
        """Takes what is due to this share, or gives back what is due to others. Raises database errors."""
        async with transaction() as tx:
            among = await holders(tx, self._store, self._limit)
        others = [each for each in among if each.lease_id != self._lease_id]
        total, is_known = self._limit.total(), len(others) < len(among)
        if not is_known:
            among = [*among, Holder(self._lease_id, self.held, self._wanted)]
        due = fair_shares(total, among).get(self._lease_id, 0)
        if due < self.held:
            await self._shrink(due)
        elif not is_known or min(due, total - _held(others)) > self.held:
            await self._write(due)

    async def _shrink(self, size: int) -> None:
        """Gives back what is beyond this size, as soon as the calls have ended."""
        self.turns.resize(size)
        while self.turns.taken > size:  # noqa: ASYNC110  (a call lasts longer)
            await asyncio.sleep(_WAIT_SECONDS)
        self.held = size
        await self._write(size)

    async def _write(self, due: int) -> None:
        """Takes as much as there is, up to `due`."""
        about = {"id": self._lease_id, "name": self._limit.name, "wanted": self._wanted}
        async with transaction() as tx:
            await tx.execute(_LOCK(self._store), {"lock": lock_number(self._store, self._limit.name)})
            among = await holders(tx, self._store, self._limit)
            others = _held(each for each in among if each.lease_id != self._lease_id)
            held = max(0, min(due, self._limit.total() - others))
            written = await tx.execute(_WRITE(self._store), {**about, "held": held})
        self._has_lease = written.rowcount > 0
        self.held = held if self._has_lease else 0
        self.turns.resize(self.held)

    async def keep_fair(self) -> None:
        """Checks the share until it is cancelled."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS if self.held else _WAIT_SECONDS)
            try:
                await self.check()
            except Exception as error:
                if not is_database_error(error):
                    raise

    async def give_back(self) -> None:
        """Ends the share. If the database does not answer, the share ends with the lease."""
        try:
            await retry_while_database_down(self._remove, seconds=_END_SECONDS)
        except Exception as error:
            if not is_database_error(error):
                raise
            log.warning(
                "the share of %s ends in %g s (%s)",
                self._limit.name,
                config().lease_seconds,
                type(error).__name__,
            )

    async def _remove(self) -> None:
        async with transaction() as tx:
            await tx.execute(_REMOVE(self._store), {"id": self._lease_id, "name": self._limit.name})


@asynccontextmanager
async def share(
    limit: Limit | None, store: SagaStore[Any], lease_id: UUID | None = None, *, wanted: int = 1
) -> AsyncIterator[None]:
    """Holds a share of the limit while its body runs, which makes no more calls at once than the share
    allows. Waits until it has some; does nothing if the caller has a share already.

    `lease_id`: the lease that the share ends with; None: one of its own. `wanted`: how many calls the body
    could make at once; it gets at most `Limit.most`.
    """
    if limit is None or limit.is_held:
        yield
        return
    async with AsyncExitStack() as stack:
        if lease_id is None:
            lease_id = await stack.enter_async_context(lease(store))
        mine = Share(limit, store, lease_id, wanted)
        stack.push_async_callback(mine.give_back)
        if not await mine.take():
            mine.turns.resize(1)  # the lease is over: the journal decides which instances are still owned
        if wanted > 1:
            fair = asyncio.create_task(mine.keep_fair(), name=f"share of {limit.name}")
            stack.push_async_callback(cancel_and_wait, [fair])
        stack.enter_context(limit.within(mine.turns))
        yield
