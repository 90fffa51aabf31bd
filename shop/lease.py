"""The lease: the right to work on orders until a time, renewed while its holder lives.

One row for one worker, however many orders it holds. When the worker dies the row runs out, and `claim` gives its orders to
another. Times are the database's, so that workers' clocks do not matter.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID, uuid4

from sqlalchemy import text

from shop.database import is_database_trouble, transaction
from shop.points import effect
from shop.settings import settings

log = logging.getLogger(__name__)

_TAKING, _HANDING_BACK = effect("the commit of taking a lease"), effect("the commit of handing a lease back")
_TAKE = text("INSERT INTO lease (id, holder, until) VALUES (:id, :holder, now() + make_interval(secs => :seconds))")
_RENEW = text("UPDATE lease SET until = now() + make_interval(secs => :seconds) WHERE id = :id")
_HAND_BACK = text("UPDATE customer_order SET lease_id = NULL WHERE lease_id = :id AND outcome IS NULL")
_DROP = text("DELETE FROM lease WHERE id = :id OR until < now() - interval '1 day'")


@asynccontextmanager
async def lease() -> AsyncIterator[UUID]:
    """Holds a lease while its body runs. Orders still held at the end are handed back at once, for anybody to claim."""
    lease_id = uuid4()
    await _take(lease_id)
    renewing = asyncio.create_task(_keep_renewing(lease_id), name="renew-lease")
    try:
        yield lease_id
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing
        await asyncio.shield(_end(lease_id))


async def _take(lease_id: UUID) -> None:
    holder = f"{socket.gethostname()}:{os.getpid()}"
    async with transaction(_TAKING) as tx:
        await tx.execute(_TAKE, {"id": lease_id, "holder": holder, "seconds": settings().lease_seconds})


async def _renew(lease_id: UUID) -> None:
    async with transaction() as tx:
        await tx.execute(_RENEW, {"id": lease_id, "seconds": settings().lease_seconds})


async def _keep_renewing(lease_id: UUID) -> None:
    pause = settings().lease_seconds / 4
    while True:
        await asyncio.sleep(pause)
        try:
            await _renew(lease_id)
        except Exception as error:  # noqa: BLE001
            # Not renewed is not lost: the fence decides. Trying again is all there is to do.
            log.warning("the lease could not be renewed just now: %s", type(error).__name__)


async def _end(lease_id: UUID) -> None:
    try:
        async with transaction(_HANDING_BACK) as tx:
            await tx.execute(_HAND_BACK, {"id": lease_id})
            await tx.execute(_DROP, {"id": lease_id})
    except Exception as error:
        if not is_database_trouble(error):
            raise
        log.warning("the lease could not be handed back (%s): it runs out by itself", type(error).__name__)
