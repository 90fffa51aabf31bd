"""The work pool and its queues."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from deployments.capacity import QUEUES
from deployments.local.worker import POOL
from deployments.setup.item import Change, Item

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_POOL_TYPE = "process"


def client() -> SyncPrefectClient:
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)


def ensure_work_pool(*, apply: bool = True) -> list[Item]:
    """Creates the process work pool that the deployments use. Keeps one of another type."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect.workers.process import ProcessWorker

    change, note = Change.UNCHANGED, ""
    with client() as server:
        try:
            there = server.read_work_pool(POOL)
        except ObjectNotFound:
            change = Change.MISSING
            if apply:
                template = ProcessWorker.get_default_base_job_template()
                with suppress(ObjectAlreadyExists):
                    server.create_work_pool(
                        WorkPoolCreate(name=POOL, type=_POOL_TYPE, base_job_template=template)
                    )
                change = Change.CREATED
        else:
            note = _notes(
                **{f"its type is {there.type}": there.type != _POOL_TYPE, "it is paused": there.is_paused}
            )
    return [Item("work pool", POOL, change, note)]


def ensure_queues(*, apply: bool = True) -> list[Item]:
    """Creates the pool's work queues, in the sequence of their priority: consumers and recovery first."""
    from prefect.exceptions import ObjectNotFound

    items = []
    with client() as server:
        before = 0
        for name in QUEUES:
            try:
                there = server.read_work_queue_by_name(name, POOL)
            except ObjectNotFound:
                if apply:
                    there = server.create_work_queue(name, priority=before + 1, work_pool_name=POOL)
                    before = there.priority or before + 1
                items.append(Item("work queue", name, Change.CREATED if apply else Change.MISSING))
                continue
            priority, change, note = (
                there.priority or 0,
                Change.UNCHANGED,
                _notes(**{"it is paused": there.is_paused}),
            )
            if priority <= before:
                change, note = Change.DIFFERS, f"its priority was {priority}"
                if apply:
                    server.update_work_queue(there.id, priority=before + 1)
                    priority, change = before + 1, Change.UPDATED
            before = priority
            items.append(Item("work queue", name, change, note))
    return items


def _notes(**true: bool) -> str:
    return ", ".join(note for note, holds in true.items() if holds)
