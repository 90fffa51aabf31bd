"""Trips under way, and effects that end as a test says, counted: in our own database and outside."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

import saga.database_action
import saga.execution
import saga.external_action
from saga.database import Tx, transaction
from saga.definition import Kind, Step
from saga.errors import StepError
from tests.saga.trips import Agency, Busy, TripInstance

LONG = 30.0
Ends = Mapping[str, Any]


async def not_run(work: Any) -> None:
    """Tests call `run_in_database` and `run_external` themselves."""


def step(kind: Kind = Kind.COMPENSATABLE, *, name: str = "act", time_limit: float = LONG) -> Step:
    return Step(not_run, not_run if kind is Kind.COMPENSATABLE else None, kind, time_limit, 0, name=name)


ACT, READ, DEPART = step(), step(Kind.READ_ONLY, name="read"), step(Kind.PIVOT, name="depart")


def gone() -> OperationalError:
    return OperationalError("SELECT 1", {}, Exception("server closed the connection"))


def ids(trips: Sequence[TripInstance]) -> list[str]:
    return [trip.id for trip in trips]


async def some(agency: Agency, *trip_ids: str) -> list[TripInstance]:
    return await agency.instance(*trip_ids)


async def statuses(agency: Agency, name: str = "act") -> dict[str, str]:
    """Trip to the status in its journal."""
    return dict(await agency.rows("SELECT instance_id, status FROM trip_step WHERE step = :step", step=name))


class Effects:
    """An effect in our own database: a seat for each trip. Ends some trips otherwise."""

    def __init__(self, agency: Agency, **ends: Any) -> None:
        self.agency, self.ends, self.asked = agency, ends, list[list[str]]()

    async def __call__(self, tx: Tx, trips: Sequence[TripInstance]) -> Ends:
        self.asked.append(ids(trips))
        done: dict[str, Any] = {}
        for trip in trips:
            end = self.ends.get(trip.id)
            if isinstance(end, StepError):
                done[trip.id] = end
                continue
            await tx.execute(
                text("INSERT INTO booking (trip_id, what) VALUES (:id, 'seat')"), {"id": trip.id}
            )
            done[trip.id] = {"seat": trip.id}
            if isinstance(end, BaseException):
                raise end
        return done

    async def made(self) -> dict[str, int]:
        """How often each trip's effect was made, of those that were made at all."""
        return await self.agency.booked("seat")


async def cancel_seats(tx: Tx, trips: Sequence[TripInstance]) -> Ends:
    """Undoes `Effects`, and says for each trip how many seats that were."""
    found = {}
    for trip in trips:
        cancelled = await tx.execute(
            text("DELETE FROM booking WHERE trip_id = :id AND what = 'seat'"), {"id": trip.id}
        )
        found[trip.id] = {"cancelled": cancelled.rowcount}
    return found


class Outside:
    """An external effect: one call for each trip, counted.
    Each trip has scripted answers, one for each call."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {i: list(a) if isinstance(a, list) else [a] for i, a in answers.items()}
        self.calls, self.at_once, self._now = Counter[str](), Counter[str](), Counter[str]()
        self.hold: dict[str, asyncio.Event] = {}

    def slow(self, instance_id: str) -> asyncio.Event:
        """This trip answers when the event is set."""
        return self.hold.setdefault(instance_id, asyncio.Event())

    def busy(self, instance_id: str) -> bool:
        """Whether a call for this trip is not answered yet."""
        return self._now[instance_id] > 0

    async def __call__(self, trip: TripInstance) -> Any:
        self.calls[trip.id] += 1
        self._now[trip.id] += 1
        self.at_once[trip.id] = max(self.at_once[trip.id], self._now[trip.id])
        try:
            if trip.id in self.hold:
                await self.hold[trip.id].wait()
            answers = self.answers.get(trip.id, [])
            answer = answers.pop(0) if answers else None
            if isinstance(answer, BaseException):
                raise answer
            return {"called": trip.id}
        finally:
            self._now[trip.id] -= 1


def busy() -> Busy:
    return Busy("try again")


def failing_commits(
    monkeypatch: pytest.MonkeyPatch, *, arrives: bool, error: BaseException | None = None
) -> None:
    """The next commit fails for the worker, whether it arrived at the database or not."""
    count = itertools.count()

    @asynccontextmanager
    async def unclear(*_: object, **_more: object) -> AsyncIterator[Tx]:
        fails = next(count) == 0
        async with transaction() as tx:
            yield tx
            if fails and not arrives:
                raise error or gone()
        if fails:
            raise error or gone()

    for module in (saga.execution, saga.database_action, saga.external_action):
        monkeypatch.setattr(module, "transaction", unclear)
