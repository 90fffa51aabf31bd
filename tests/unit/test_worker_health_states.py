"""What a worker says of its health as time passes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from deployments import worker_health
from deployments.worker_health import WorkerHealth
from saga.asyncio_tasks import cancel_and_wait


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr(worker_health, "time", SimpleNamespace(monotonic=lambda: self.now))


class Database:
    """What the check of the database finds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trouble: str | None = None
        monkeypatch.setattr(worker_health, "why_unusable", self._why)
        monkeypatch.setattr(worker_health, "_LOOK_SECONDS", 0)

    async def _why(self, _seconds: float) -> str | None:
        return self.trouble


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    return Database(monkeypatch)


def started(*paused: str, poll_seconds: float = 1) -> WorkerHealth:
    worker: Any = SimpleNamespace(why_paused=lambda: list(paused))
    health = WorkerHealth()
    health.started(worker, poll_seconds=poll_seconds)
    return health


async def look(health: WorkerHealth) -> None:
    """The worker's event loop runs for a while."""
    watching = asyncio.create_task(health.watch())
    for _ in range(5):
        await asyncio.sleep(0)
    await cancel_and_wait([watching])


def test_one_that_starts_is_alive_for_a_while_and_not_ready(clock: Clock) -> None:
    health = WorkerHealth()
    assert len(health.why_not_ready()) == 1
    clock.now += 299
    assert not health.why_dead()
    clock.now += 2
    (reason,) = health.why_dead()
    assert "301 s" in reason


async def test_an_event_loop_that_stands_still_is_not_alive(clock: Clock, database: Database) -> None:
    health = started()
    assert not health.why_not_ready()
    clock.now += 61
    health.polls()
    (reason,) = health.why_dead()
    assert "61 s" in reason
    assert health.why_dead()[0] in health.why_not_ready()
    await look(health)
    assert not health.why_dead()


async def test_polls_without_answers_count_for_alive_and_not_for_ready(
    clock: Clock, database: Database
) -> None:
    health = started()
    for _ in range(40):
        clock.now += 10
        health.polls()
        await look(health)
        assert not health.why_dead()
    (reason,) = health.why_not_ready()
    assert "400 s" in reason
    health.polled()
    assert not health.why_not_ready()


async def test_a_worker_that_polls_seldom_is_ready_for_longer(clock: Clock, database: Database) -> None:
    health = started(poll_seconds=20)
    clock.now += 59
    await look(health)
    assert not health.why_not_ready()
    clock.now += 2
    (reason,) = health.why_not_ready()
    assert "61 s" in reason


async def test_the_database_failure_is_named(clock: Clock, database: Database) -> None:
    health, database.trouble = started(), "the database is read-only"
    await look(health)
    assert not health.why_not_ready(), "it may be over in a moment"
    clock.now += 16
    health.polled()
    await look(health)
    (reason,) = health.why_not_ready()
    assert "16 s" in reason
    assert not health.why_dead()
    database.trouble = None
    await look(health)
    assert not health.why_not_ready()


def test_one_that_stops_is_alive_and_not_ready(clock: Clock) -> None:
    health = started()
    health.stopping()
    assert (len(health.why_not_ready()), health.why_dead()) == (1, [])


def test_a_paused_work_pool_is_a_reason() -> None:
    assert started("the work pool orders is paused").why_not_ready() == ["the work pool orders is paused"]
