"""The lease: the right to work on orders until a time, renewed while its holder lives.

One row for one worker, however many orders it holds. When the worker dies the row runs out, and `claim` gives its orders to
another. Times are the database's, so that workers' clocks do not matter.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import text

from shop.cancelling import cancel
from shop.database import Tx, does_not_answer, is_database_trouble, patiently, transaction
from shop.points import effect
from shop.settings import settings
from shop.signals import WAITING
from shop.under_way import OrderUnderWay

log = logging.getLogger(__name__)

_TAKING, HANDING_BACK = effect("the commit of taking a lease"), effect("the commit of handing a lease back")
_TAKE = text(
    "INSERT INTO lease AS l (id, holder, until) VALUES (:id, :holder, now() + make_interval(secs => :seconds)) "
    "ON CONFLICT (id) DO UPDATE SET until = greatest(l.until, excluded.until)"
)
# Locked as the update locks it: it waits for whoever is just taking the orders, and reads what that one has left.
_RENEW = text(
    "WITH was AS (SELECT orders_left FROM lease WHERE id = :id FOR NO KEY UPDATE) "
    "UPDATE lease l SET until = now() + make_interval(secs => :seconds), orders_left = NULL FROM was WHERE l.id = :id "
    "RETURNING was.orders_left IS NOT DISTINCT FROM 1"
)
_LEFT_ALONE = text("SELECT orders_left IS NOT DISTINCT FROM 1 FROM lease WHERE id = :id")
# Rows that are locked just now are left for the next time: two workers must not wait for each other here.
_UNCOUNT = text(
    "UPDATE customer_order SET takeovers = greatest(takeovers - 1, 0), taken_over_from = NULL, "
    "lone_deaths = greatest(lone_deaths - CASE WHEN :alone THEN 1 ELSE 0 END, 0) WHERE id IN ("
    "SELECT id FROM customer_order WHERE taken_over_from = :id AND outcome IS NULL FOR UPDATE SKIP LOCKED)"
)
_HAND_BACK = text("UPDATE customer_order SET lease_id = NULL WHERE lease_id = :id AND outcome IS NULL")
_STRAYS = text(
    "SELECT o.id FROM customer_order o WHERE o.lease_id = :id AND o.outcome IS NULL AND NOT EXISTS (SELECT 1 FROM "
    "unnest(CAST(:ids AS text[]), CAST(:fences AS bigint[])) AS known(id, fence) WHERE known.id = o.id AND known.fence = o.fence)"
)
_HAND_BACK_THESE = text(
    "UPDATE customer_order SET lease_id = NULL WHERE lease_id = :id AND id = ANY(CAST(:ids AS text[])) AND outcome IS NULL"
)
_TELL = text("SELECT pg_notify(:channel, '')")
_END_SECONDS = 5
"""For so long a database that is away is waited for at the end; after it the lease runs out by itself."""
_DROP = text("DELETE FROM lease WHERE id = :id OR until < now() - interval '1 day'")


@dataclass(slots=True)
class _Connection:
    """What this lease's holder knows of its way to the database."""

    was_lost: bool = False
    """Whether the lease could not be renewed in time although its holder lived: a takeover since then is not the orders' fault."""
    was_alone: bool = False
    """Whether a single order was taken over, as a renewal found that may be known as late only afterwards: kept until that is uncounted."""


@asynccontextmanager
async def lease() -> AsyncIterator[UUID]:
    """Holds a lease while its body runs. Orders still held at the end are handed back at once, for anybody to claim. A database that
    is away is waited for."""
    lease_id = uuid4()
    await patiently(lambda: _take(lease_id))
    connection = _Connection()
    renewing = asyncio.create_task(_keep_renewing(lease_id, connection), name="renew-lease")
    try:
        yield lease_id
    finally:
        await cancel([renewing])
        await asyncio.shield(_end(lease_id, connection))


async def _take(lease_id: UUID) -> None:
    holder = f"{socket.gethostname()}:{os.getpid()}"
    async with transaction(_TAKING) as tx:
        await tx.execute(_TAKE, {"id": lease_id, "holder": holder, "seconds": settings().lease_seconds})


async def _renew(lease_id: UUID, connection: _Connection, *, limit: float) -> None:
    async with transaction(seconds=limit) as tx:
        alone = (await tx.execute(_RENEW, {"id": lease_id, "seconds": settings().lease_seconds})).scalar()
        connection.was_alone |= bool(alone)
        if connection.was_lost:
            await tx.execute(_UNCOUNT, {"id": lease_id, "alone": connection.was_alone})


async def _keep_renewing(lease_id: UUID, connection: _Connection) -> None:
    """One connection that does not answer must not cost the lease: each try is limited, and the next one follows at once. A database that
    is slow gets more time with each try."""
    lease_seconds = settings().lease_seconds
    pause = wait = limit = lease_seconds / 4
    while True:
        await asyncio.sleep(wait)
        began, worked = time.monotonic(), time.process_time()
        failed: BaseException | None = None
        try:
            await _renew(lease_id, connection, limit=limit)
        except Exception as error:  # noqa: BLE001
            # Not renewed is not lost: the fence decides. Trying again is all there is to do.
            failed = error
            log.warning("the lease could not be renewed just now: %s", type(error).__name__)
        except asyncio.CancelledError as error:  # in the middle of it: what is known so far is for `_drop`
            failed = error
            raise
        finally:
            # Counts only a slow database: a takeover from a process that blocked its own event loop is its orders' fault.
            took, busy = time.monotonic() - began, time.process_time() - worked
            late, blocked = took > pause, took > pause and busy >= took / 2
            if failed is None:
                connection.was_lost = late and not blocked
                connection.was_alone &= connection.was_lost
            else:
                connection.was_lost |= (late or is_database_trouble(failed)) and not blocked
        wait = pause if failed is None else max(0.0, pause - took)
        limit = min(max(pause, 2 * took), lease_seconds)


async def hand_back_all(lease_id: UUID) -> None:
    """Hands back every open order under the lease, also those of a claim whose answer was lost. Nobody may be working on one."""
    async with transaction(HANDING_BACK) as tx:
        await _hand_back(tx, lease_id)


async def hand_back_strays(lease_id: UUID, in_hand: Iterable[OrderUnderWay]) -> bool:
    """Hands back what is under the lease and not in hand: orders of a claim whose answer was lost, which nobody would ever work on. If one
    of them spoils it for all, each by itself. Returns whether all are. Raises when the database does not answer."""
    known = list(in_hand)
    async with transaction() as tx:
        parameters = {"id": lease_id, "ids": [order.id for order in known], "fences": [order.fence for order in known]}
        strays = list((await tx.execute(_STRAYS, parameters)).scalars())
    try:
        await _hand_back_these(lease_id, strays)
    except Exception as error:
        if does_not_answer(error):
            raise
    else:
        return True
    left = 0
    for order_id in strays:
        try:
            await _hand_back_these(lease_id, [order_id])
        except Exception as error:
            if does_not_answer(error):
                raise
            left += 1
            log.warning("order %s, which nobody works on, could not be handed back (%s)", order_id, type(error).__name__)
    return left == 0


async def _hand_back_these(lease_id: UUID, order_ids: list[str]) -> None:
    if order_ids:
        async with transaction(HANDING_BACK) as tx:
            await tx.execute(_HAND_BACK_THESE, {"id": lease_id, "ids": order_ids})


async def _hand_back(tx: Tx, lease_id: UUID) -> None:
    if (await tx.execute(_HAND_BACK, {"id": lease_id})).rowcount:
        await tx.execute(_TELL, {"channel": WAITING})


async def _drop(lease_id: UUID, connection: _Connection) -> None:
    async with transaction(HANDING_BACK) as tx:
        await _hand_back(tx, lease_id)
        await _forget(tx, lease_id, connection)


async def _forget(tx: Tx, lease_id: UUID, connection: _Connection) -> None:
    if connection.was_lost:
        connection.was_alone |= bool((await tx.execute(_LEFT_ALONE, {"id": lease_id})).scalar())
        await tx.execute(_UNCOUNT, {"id": lease_id, "alone": connection.was_alone})
    await tx.execute(_DROP, {"id": lease_id})


async def _drop_one_by_one(lease_id: UUID, connection: _Connection) -> None:
    """One order that cannot be handed back keeps no others: without its lease, anybody may take it over."""
    await hand_back_strays(lease_id, [])
    async with transaction(HANDING_BACK) as tx:
        await tx.execute(_TELL, {"channel": WAITING})
        await _forget(tx, lease_id, connection)


async def _end(lease_id: UUID, connection: _Connection) -> None:
    try:
        try:
            await patiently(lambda: _drop(lease_id, connection), seconds=_END_SECONDS)
        except Exception as error:
            if does_not_answer(error):
                raise
            await patiently(lambda: _drop_one_by_one(lease_id, connection), seconds=_END_SECONDS)
    except Exception as error:
        log.warning(
            "the lease could not be handed back (%s): it runs out by itself",
            type(error).__name__,
            exc_info=None if is_database_trouble(error) else error,
        )
