"""Leases: the right to work on instances until a time, renewed while the holder lives.

A worker has one row, however many instances it holds. When the worker dies the lease expires, and another
worker claims its instances. Times are the database's, so that workers' clocks do not matter.
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
from typing import Any
from uuid import UUID, uuid4

from saga.asyncio_tasks import cancel_and_wait
from saga.configuration import config
from saga.database import Tx, is_database_error, is_unreachable, retry_while_database_down, transaction
from saga.failpoints import failpoint
from saga.instance import Instance
from saga.store import SagaStore, sql
from saga.wakeup import WAITING, notification

log = logging.getLogger(__name__)

RENEWED = 0.6
"""The least fraction of a lease that is left while its holder lives: the holder renews it four times in its
duration."""
_TAKING, RELEASING = (
    failpoint("the commit of taking a lease"),
    failpoint("the commit of handing a lease back"),
)
_TAKE = sql(
    "INSERT INTO {leases} AS l (id, holder, until) "
    "VALUES (:id, :holder, now() + make_interval(secs => :seconds)) "
    "ON CONFLICT (id) DO UPDATE SET until = greatest(l.until, excluded.until)"
)
# Waits for a claim under the lease whose answer was lost, and which the server may still commit: a claim
# locks its lease (`saga.claims`). Does not wait for journal writes.
_WAIT_FOR_CLAIMS = sql("SELECT 1 FROM {leases} WHERE id = :id FOR NO KEY UPDATE")
# The same lock as the update's: it waits for a concurrent takeover, and reads what that takeover has written.
_RENEW = sql(
    "WITH was AS (SELECT orders_left FROM {leases} WHERE id = :id FOR NO KEY UPDATE) "
    "UPDATE {leases} l SET until = now() + make_interval(secs => :seconds), orders_left = NULL "
    "FROM was WHERE l.id = :id RETURNING was.orders_left IS NOT DISTINCT FROM 1"
)
# Others have deleted a lease that was not renewed for a day, and may have claimed every instance.
_RENEW_DELETED = sql(
    "INSERT INTO {leases} (id, holder, until, taken_from) "
    "VALUES (:id, :holder, now() + make_interval(secs => :seconds), true)"
)
_HAD_SINGLE_INSTANCE = sql("SELECT orders_left IS NOT DISTINCT FROM 1 FROM {leases} WHERE id = :id")
# Skips locked rows, which the next renewal updates: two workers must not wait for each other here.
_UNCOUNT_TAKEOVERS = sql(
    "UPDATE {instances} SET takeovers = greatest(takeovers - 1, 0), taken_over_from = NULL, "
    "lone_deaths = greatest(lone_deaths - CASE WHEN :alone THEN 1 ELSE 0 END, 0) WHERE id IN ("
    "SELECT id FROM {instances} WHERE taken_over_from = :id AND outcome IS NULL FOR UPDATE SKIP LOCKED)"
)
_RELEASE_ALL = sql("UPDATE {instances} SET lease_id = NULL WHERE lease_id = :id AND outcome IS NULL")
_STRAYS = sql(
    "SELECT o.id FROM {instances} o WHERE o.lease_id = :id AND o.outcome IS NULL AND NOT EXISTS ("
    "SELECT 1 FROM unnest(CAST(:ids AS text[]), CAST(:fences AS bigint[])) AS known(id, fence) "
    "WHERE known.id = o.id AND known.fence = o.fence)"
)
_RELEASE_THESE = sql(
    "UPDATE {instances} SET lease_id = NULL "
    "WHERE lease_id = :id AND id = ANY(CAST(:ids AS text[])) AND outcome IS NULL"
)
_END_SECONDS = 5
"""How many seconds the release of a lease is retried while the database is unavailable. After that the lease
expires by itself."""
_DELETE = sql("DELETE FROM {leases} WHERE id = :id OR until < now() - interval '1 day'")


CHECK_FENCES = sql("UPDATE {leases} SET taken_from = true WHERE id = ANY(CAST(:leases AS uuid[]))")
"""Makes the leases' holders check each instance's fence from now on, because others may claim instances that
a holder still works on."""


@dataclass(slots=True)
class _Renewal:
    """The state of a lease's renewals."""

    was_late: bool = False
    """Whether the last renewal was late although the holder lived: a takeover since then is not the
    instances' fault."""
    had_single_instance: bool = False
    """Whether a renewal found that a single instance was taken over. Kept until the takeover is uncounted,
    because a renewal may be known as late only afterwards."""


@asynccontextmanager
async def lease(store: SagaStore[Any]) -> AsyncIterator[UUID]:
    """Holds a lease while its body runs. At the end, releases the instances that are still held, so that any
    worker can claim them at once. Retries while the database is unavailable."""
    lease_id = uuid4()
    await retry_while_database_down(lambda: _take_lease(store, lease_id))
    renewal = _Renewal()
    renewing = asyncio.create_task(_keep_renewing(store, lease_id, renewal), name="renew-lease")
    try:
        yield lease_id
    finally:
        await cancel_and_wait([renewing])
        await asyncio.shield(_release_lease(store, lease_id, renewal))


async def _take_lease(store: SagaStore[Any], lease_id: UUID) -> None:
    async with transaction(_TAKING) as tx:
        await tx.execute(
            _TAKE(store), {"id": lease_id, "holder": _holder(), "seconds": config().lease_seconds}
        )


def _holder() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


async def _renew(store: SagaStore[Any], lease_id: UUID, renewal: _Renewal, *, limit: float) -> None:
    about = {"id": lease_id, "seconds": config().lease_seconds}
    async with transaction(seconds=limit) as tx:
        single = (await tx.execute(_RENEW(store), about)).scalar()
        if single is None:
            await tx.execute(_RENEW_DELETED(store), {**about, "holder": _holder()})
        renewal.had_single_instance |= bool(single)
        if renewal.was_late:
            await tx.execute(
                _UNCOUNT_TAKEOVERS(store), {"id": lease_id, "alone": renewal.had_single_instance}
            )


async def _keep_renewing(store: SagaStore[Any], lease_id: UUID, renewal: _Renewal) -> None:
    """Renews the lease until it is cancelled. A connection that does not respond must not cost the lease:
    each attempt has a time limit, and the next one follows at once. A slow database gets more time with each
    attempt."""
    lease_seconds = config().lease_seconds
    pause = wait = limit = lease_seconds / 4
    while True:
        await asyncio.sleep(wait)
        began, worked = time.monotonic(), time.process_time()
        failed: BaseException | None = None
        try:
            await _renew(store, lease_id, renewal, limit=limit)
        except Exception as error:  # noqa: BLE001
            # A lease that was not renewed is not lost: the fence decides. The next attempt follows.
            failed = error
            log.warning("renewing the lease failed (%s); retrying", type(error).__name__)
        except asyncio.CancelledError as error:  # during a renewal: `_end_lease` uses what is known so far
            failed = error
            raise
        finally:
            # Only a slow database counts: a takeover from a process that blocked its own event loop is its
            # instances' fault.
            took, busy = time.monotonic() - began, time.process_time() - worked
            late, blocked = took > pause, took > pause and busy >= took / 2
            if failed is None:
                renewal.was_late = late and not blocked
                renewal.had_single_instance &= renewal.was_late
            else:
                renewal.was_late |= (late or is_database_error(failed)) and not blocked
        wait = pause if failed is None else max(0.0, pause - took)
        limit = min(max(pause, 2 * took), lease_seconds)


async def release_all(store: SagaStore[Any], lease_id: UUID) -> None:
    """Releases every open instance under the lease, also those of a claim whose answer was lost. No task may
    be working on any of them."""
    async with transaction(RELEASING) as tx:
        await tx.execute(_WAIT_FOR_CLAIMS(store), {"id": lease_id})
        await _release_instances(tx, store, lease_id)


async def release_strays(store: SagaStore[Any], lease_id: UUID, known: Iterable[Instance]) -> bool:
    """Releases the instances under the lease that the worker does not know, from a claim whose answer was
    lost: no worker would ever work on them. If releasing them together fails, releases each separately.
    Returns whether all are released. Raises if the database is unreachable."""
    held = list(known)
    async with transaction() as tx:
        await tx.execute(_WAIT_FOR_CLAIMS(store), {"id": lease_id})
        parameters = {
            "id": lease_id,
            "ids": [instance.id for instance in held],
            "fences": [instance.fence for instance in held],
        }
        strays = list((await tx.execute(_STRAYS(store), parameters)).scalars())
    try:
        await _release_these(store, lease_id, strays)
    except Exception as error:
        if is_unreachable(error):
            raise
    else:
        return True
    left = 0
    for instance_id in strays:
        try:
            await _release_these(store, lease_id, [instance_id])
        except Exception as error:
            if is_unreachable(error):
                raise
            left += 1
            log.warning(
                "instance %s, which no worker is working on, could not be released (%s)",
                instance_id,
                type(error).__name__,
            )
    return left == 0


async def _release_these(store: SagaStore[Any], lease_id: UUID, instance_ids: list[str]) -> None:
    if instance_ids:
        async with transaction(RELEASING) as tx:
            await tx.execute(CHECK_FENCES(store), {"leases": [lease_id]})
            await tx.execute(_RELEASE_THESE(store), {"id": lease_id, "ids": instance_ids})


async def _release_instances(tx: Tx, store: SagaStore[Any], lease_id: UUID) -> None:
    if (await tx.execute(_RELEASE_ALL(store), {"id": lease_id})).rowcount:
        await tx.execute(notification(store, WAITING))


async def _end_lease(store: SagaStore[Any], lease_id: UUID, renewal: _Renewal) -> None:
    async with transaction(RELEASING) as tx:
        await _release_instances(tx, store, lease_id)
        await _delete_lease(tx, store, lease_id, renewal)


async def _delete_lease(tx: Tx, store: SagaStore[Any], lease_id: UUID, renewal: _Renewal) -> None:
    if renewal.was_late:
        renewal.had_single_instance |= bool(
            (await tx.execute(_HAD_SINGLE_INSTANCE(store), {"id": lease_id})).scalar()
        )
        await tx.execute(_UNCOUNT_TAKEOVERS(store), {"id": lease_id, "alone": renewal.had_single_instance})
    await tx.execute(_DELETE(store), {"id": lease_id})


async def _end_lease_one_by_one(store: SagaStore[Any], lease_id: UUID, renewal: _Renewal) -> None:
    """Ends the lease although some instance cannot be released:
    without its lease, any worker may claim it."""
    await release_strays(store, lease_id, [])
    async with transaction(RELEASING) as tx:
        await tx.execute(notification(store, WAITING))
        await _delete_lease(tx, store, lease_id, renewal)


async def _release_lease(store: SagaStore[Any], lease_id: UUID, renewal: _Renewal) -> None:
    try:
        try:
            await retry_while_database_down(
                lambda: _end_lease(store, lease_id, renewal), seconds=_END_SECONDS
            )
        except Exception as error:
            if is_unreachable(error):
                raise
            await retry_while_database_down(
                lambda: _end_lease_one_by_one(store, lease_id, renewal), seconds=_END_SECONDS
            )
    except Exception as error:
        log.warning(
            "the lease could not be released (%s): it expires by itself",
            type(error).__name__,
            exc_info=None if is_database_error(error) else error,
        )
