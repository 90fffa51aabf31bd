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
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import text

from shop.database import Tx, is_database_trouble, patiently, transaction
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
_RENEW = text(
    "WITH was AS (SELECT orders_left FROM lease WHERE id = :id) "
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
    "UPDATE customer_order o SET lease_id = NULL WHERE o.lease_id = :id AND o.outcome IS NULL AND NOT EXISTS (SELECT 1 FROM "
    "unnest(CAST(:ids AS text[]), CAST(:fences AS bigint[])) AS known(id, fence) WHERE known.id = o.id AND known.fence = o.fence)"
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
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing
        await asyncio.shield(_end(lease_id, connection))


async def _take(lease_id: UUID) -> None:
    holder = f"{socket.gethostname()}:{os.getpid()}"
    async with transaction(_TAKING) as tx:
        await tx.execute(_TAKE, {"id": lease_id, "holder": holder, "seconds": settings().lease_seconds})


async def _renew(lease_id: UUID, connection: _Connection) -> None:
    seconds = settings().lease_seconds
    async with transaction(seconds=seconds) as tx:  # later it is of no use
        alone = (await tx.execute(_RENEW, {"id": lease_id, "seconds": seconds})).scalar()
        if connection.was_lost:
            await tx.execute(_UNCOUNT, {"id": lease_id, "alone": bool(alone)})


async def _keep_renewing(lease_id: UUID, connection: _Connection) -> None:
    pause = settings().lease_seconds / 4
    while True:
        await asyncio.sleep(pause)
        began, worked = time.monotonic(), time.process_time()
        failed: Exception | None = None
        try:
            await _renew(lease_id, connection)
        except Exception as error:  # noqa: BLE001
            # Not renewed is not lost: the fence decides. Trying again is all there is to do.
            failed = error
            log.warning("the lease could not be renewed just now: %s", type(error).__name__)
        # Counts only a slow database: a takeover from a process that blocked its own event loop is its orders' fault.
        took, busy = time.monotonic() - began, time.process_time() - worked
        late, blocked = took > pause, took > pause and busy >= took / 2
        if failed is None:
            connection.was_lost = late and not blocked
        else:
            connection.was_lost |= is_database_trouble(failed) and not blocked


async def hand_back_all(lease_id: UUID) -> None:
    """Hands back every open order under the lease, also those of a claim whose answer was lost. Nobody may be working on one."""
    async with transaction(HANDING_BACK) as tx:
        await _hand_back(tx, lease_id)


async def hand_back_strays(tx: Tx, lease_id: UUID, in_hand: Iterable[OrderUnderWay]) -> None:
    """Hands back what is under the lease and not in hand: orders of a claim whose answer was lost, which nobody would ever work on."""
    known = list(in_hand)
    await tx.execute(_STRAYS, {"id": lease_id, "ids": [order.id for order in known], "fences": [order.fence for order in known]})


async def _hand_back(tx: Tx, lease_id: UUID) -> None:
    if (await tx.execute(_HAND_BACK, {"id": lease_id})).rowcount:
        await tx.execute(_TELL, {"channel": WAITING})


async def _drop(lease_id: UUID, connection: _Connection) -> None:
    async with transaction(HANDING_BACK) as tx:
        await _hand_back(tx, lease_id)
        if connection.was_lost:
            alone = (await tx.execute(_LEFT_ALONE, {"id": lease_id})).scalar()
            await tx.execute(_UNCOUNT, {"id": lease_id, "alone": bool(alone)})
        await tx.execute(_DROP, {"id": lease_id})


async def _end(lease_id: UUID, connection: _Connection) -> None:
    try:
        await patiently(lambda: _drop(lease_id, connection), seconds=_END_SECONDS)
    except Exception as error:
        log.warning(
            "the lease could not be handed back (%s): it runs out by itself",
            type(error).__name__,
            exc_info=None if is_database_trouble(error) else error,
        )
