"""Turns of periodic jobs: at its time, a job runs in one of the processes that could run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import text

from saga.database import Tx, transaction
from saga.failpoints import failpoint
from shop.settings import settings

_TAKING, _ENDING = failpoint("the commit of taking a job's turn"), failpoint("the commit of a job's end")
# Locks nothing while no job is due, because every consumer asks each second.
_TAKE = text(
    """
    INSERT INTO job_turn AS t (job, next_at)
    SELECT j.job, now() + make_interval(secs => :seconds) FROM unnest(CAST(:jobs AS text[])) AS j(job)
    WHERE NOT EXISTS (SELECT 1 FROM job_turn d WHERE d.job = j.job AND d.next_at > now())
    ON CONFLICT (job) DO UPDATE SET next_at = excluded.next_at WHERE t.next_at <= now() RETURNING t.job
    """
)
_END = text(
    "INSERT INTO job_turn (job, next_at) VALUES (:job, now() + make_interval(secs => :seconds)) "
    "ON CONFLICT (job) DO UPDATE SET next_at = excluded.next_at WHERE job_turn.next_at > '-infinity'"
)
# Not now(): the end of a run that has not seen the new work must not postpone it.
_MAKE_DUE = text("UPDATE job_turn SET next_at = '-infinity' WHERE job = :job AND next_at > '-infinity'")


async def take(jobs: Sequence[str]) -> list[str]:
    """Takes the turns that are due; returns their jobs, which this process runs now.

    A turn is held for as long as a lease (`LEASE_SECONDS`). If the process dies or takes longer, the job is
    due again, so two processes may run a job at the same time.
    """
    async with transaction(_TAKING) as tx:
        rows = await tx.execute(_TAKE, {"jobs": list(jobs), "seconds": settings().lease_seconds})
        return list(rows.scalars())


async def end(pauses: Mapping[str, float]) -> None:
    """Records that these jobs have run: each is due again after its pause, in seconds, or at once if
    `make_due` was called since its turn was taken."""
    async with transaction(_ENDING) as tx:
        for job, seconds in pauses.items():
            await tx.execute(_END, {"job": job, "seconds": seconds})


async def make_due(tx: Tx, job: str) -> None:
    """Makes the job due when the transaction commits, because there is work for it."""
    await tx.execute(_MAKE_DUE, {"job": job})
