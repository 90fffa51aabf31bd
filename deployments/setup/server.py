"""The Prefect server, its work pool and the queues; and what setup says about each object on a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from deployments.capacity import QUEUES
from shop.settings import settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

_POOL_TYPE = "process"
_PAUSE_SECONDS = 0.5
"""Interval between two attempts to reach the server."""
_PAGE = 200
_PAUSED = "it is paused"
T = TypeVar("T")


class Change(StrEnum):
    """What was done, or would have to be done."""

    UNCHANGED = "unchanged"
    CREATED = "created"
    UPDATED = "updated"
    REMOVED = "removed"
    MISSING = "missing"
    DIFFERS = "differs"
    SURPLUS = "not wanted"
    MISCONFIGURED = "misconfigured"


@dataclass(frozen=True, slots=True)
class Item:
    """One object on a server, compared with the required state."""

    kind: str
    """Such as `work queue`."""
    name: str
    change: Change
    note: str = ""
    """What differed, or what a person has chosen on the server."""

    @property
    def wrong(self) -> bool:
        """Whether something remains to be done."""
        return self.change in {Change.MISSING, Change.DIFFERS, Change.SURPLUS, Change.MISCONFIGURED}


class NoAnswer(Exception):
    """The Prefect server does not answer: the message says where and why."""


def client() -> SyncPrefectClient:
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)


def every(read: Callable[..., Sequence[T]], **which: Any) -> Iterator[T]:
    """Yields everything that a method of the client reads page by page."""
    offset = 0
    while page := read(**which, limit=_PAGE, offset=offset):
        yield from page
        offset += len(page)
        if len(page) < _PAGE:
            return


def wait_for_server(api_url: str, seconds: float, say: Callable[[str], None]) -> None:
    """Waits until the Prefect server of this process's settings answers; calls `say` with why it has to wait.
    Raises `NoAnswer` after this time."""
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    end = time.monotonic() + seconds
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), client() as server:
        while (error := server.api_healthcheck()) is not None:
            if isinstance(error, httpx.HTTPStatusError) and not error.response.is_server_error:
                return  # it answers; whether it accepts the login is another question
            why = f"The Prefect server {api_url} does not answer: {error or type(error).__name__}"
            if time.monotonic() > end:
                raise NoAnswer(why)
            say(why)
            time.sleep(_PAUSE_SECONDS)


def ensure_work_pool(*, apply: bool = True) -> list[Item]:
    """Creates the process work pool that the deployments use. Keeps one of another type."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect.workers.process import ProcessWorker

    change, note, pool = Change.UNCHANGED, "", settings().workers.pool
    with client() as server:
        try:
            there = server.read_work_pool(pool)
        except ObjectNotFound:
            change = Change.MISSING
            if apply:
                template = ProcessWorker.get_default_base_job_template()
                with suppress(ObjectAlreadyExists):
                    server.create_work_pool(
                        WorkPoolCreate(name=pool, type=_POOL_TYPE, base_job_template=template)
                    )
                change = Change.CREATED
        else:
            kind = f"its type is {there.type}" if there.type != _POOL_TYPE else ""
            note = ", ".join(filter(None, [kind, _PAUSED if there.is_paused else ""]))
    return [Item("work pool", pool, change, note)]


def ensure_queues(*, apply: bool = True) -> list[Item]:
    """Creates the pool's work queues, in the sequence of their priority: consumers and recovery first."""
    from prefect.exceptions import ObjectNotFound

    items, pool = [], settings().workers.pool
    with client() as server:
        before = 0
        for name in QUEUES:
            try:
                there = server.read_work_queue_by_name(name, pool)
            except ObjectNotFound:
                if apply:
                    there = server.create_work_queue(name, priority=before + 1, work_pool_name=pool)
                    before = there.priority or before + 1
                items.append(Item("work queue", name, Change.CREATED if apply else Change.MISSING))
                continue
            priority, change = there.priority or 0, Change.UNCHANGED
            note = _PAUSED if there.is_paused else ""
            if priority <= before:
                change, note = Change.DIFFERS, f"its priority was {priority}"
                if apply:
                    server.update_work_queue(there.id, priority=before + 1)
                    priority, change = before + 1, Change.UPDATED
            before = priority
            items.append(Item("work queue", name, change, note))
    return items
