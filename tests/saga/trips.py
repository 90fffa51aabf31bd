"""A saga of the tests' own: trips, in their own tables, and what those say afterwards. Knows no shop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from pydantic import BaseModel
from sqlalchemy import text

from saga import Ending, Hooks, SagaInstance, SagaStore, StepError, claims, create_tables, submit
from saga.database import Tx, transaction


class Trip(BaseModel):
    id: str
    traveller: str


TripInstance = SagaInstance[Trip]


class TripHooks(Hooks[Trip]):
    """Records what commits with the end of a trip, and with its postponement."""

    async def ended(self, tx: Tx, endings: Sequence[Ending[Trip]]) -> None:
        await _book(tx, "news", [ending.instance for ending in endings])

    async def postponed(
        self, tx: Tx, instances: Sequence[TripInstance], seconds: float, error: StepError | None
    ) -> None:
        await _book(tx, "pause", instances)


async def _book(tx: Tx, what: str, trips: Sequence[TripInstance]) -> None:
    for trip in trips:
        await tx.execute(
            text("INSERT INTO booking (trip_id, what) VALUES (:id, :what)"), {"id": trip.id, "what": what}
        )


TRIPS = SagaStore(
    "trip",
    journal="trip_step",
    leases="trip_lease",
    noun="trip",
    parse=Trip.model_validate,
    hooks=TripHooks(),
)


class NoSeat(StepError):
    """A refusal: every seat is taken."""

    code, refusal = "no_seat", True

    def __init__(self, why: str = "no", seats: int = 0) -> None:
        super().__init__(why)
        self.seats = seats

    def details(self) -> dict[str, Any]:
        return {**super().details(), "seats": self.seats}

    def reasons(self) -> list[str]:
        return [f"{self.seats} seats left"]


class Busy(StepError):
    """A transient failure."""

    code, retryable = "busy", True


class Unavailable(StepError):
    """An external system is unavailable: the trip is postponed."""

    code, retryable = "away", True

    def __init__(self, seconds: float = 60) -> None:
        super().__init__("nobody answers")
        self.retry_after = seconds


class Agency:
    """The database, asked past the code that is tested."""

    async def rows(self, statement: str, **parameters: Any) -> list[Any]:
        """Runs one statement in a transaction of its own."""
        async with transaction() as tx:
            result = await tx.execute(text(statement), parameters)
            return list(result.all()) if result.returns_rows else []

    async def value(self, statement: str, **parameters: Any) -> Any:
        """The only value of the only row."""
        ((value,),) = await self.rows(statement, **parameters)
        return value

    async def create(self) -> None:
        async with transaction() as tx:
            await create_tables(tx, TRIPS)
            await tx.execute(
                text("CREATE TABLE IF NOT EXISTS booking (trip_id text NOT NULL, what text NOT NULL)")
            )

    async def empty(self) -> None:
        """Empties all tables."""
        for table in ("booking", "trip_step", "trip", "trip_lease"):
            await self.rows(f"DELETE FROM {table}")

    async def store(self, *trip_ids: str) -> None:
        async with transaction() as tx:
            for trip_id in trip_ids:
                assert await submit(tx, TRIPS, trip_id, {"id": trip_id, "traveller": f"Ada {trip_id}"})

    async def lease(self, seconds: float = 3600) -> UUID:
        """A worker's lease that is not renewed."""
        lease = uuid4()
        await self.rows(
            "INSERT INTO trip_lease (id, holder, until) "
            "VALUES (:id, 'test', now() + make_interval(secs => :seconds))",
            id=lease,
            seconds=seconds,
        )
        return lease

    async def claim(self, *ids: str, most: int = 100, lease: UUID | None = None) -> list[TripInstance]:
        """Claims these trips, or whatever is waiting."""
        lease = lease or await self.lease()
        async with transaction() as tx:
            return await claims.claim(tx, TRIPS, lease, most=most, ids=ids or None)

    async def instance(self, *trip_ids: str) -> list[TripInstance]:
        """Stores the trips and claims them."""
        await self.store(*trip_ids)
        claimed = await self.claim(*trip_ids)
        assert len(claimed) == len(trip_ids)
        return claimed

    async def expire_leases(self, *trip_ids: str) -> None:
        """Of all workers, or of those who hold these trips."""
        await self.rows(
            "UPDATE trip_lease SET until = now() - interval '1 second' "
            "WHERE :all OR id IN (SELECT lease_id FROM trip WHERE id = ANY(CAST(:ids AS text[])))",
            all=not trip_ids,
            ids=list(trip_ids),
        )

    async def age_leases(self, seconds: float) -> None:
        """As if this time had passed without renewals."""
        await self.rows("UPDATE trip_lease SET until = until - make_interval(secs => :s)", s=seconds)

    async def trip(self, trip_id: str) -> Any:
        (row,) = await self.rows("SELECT * FROM trip WHERE id = :id", id=trip_id)
        return row

    async def step(self, trip_id: str, step: str) -> Any:
        """The journal's row, or None."""
        rows = await self.rows(
            "SELECT * FROM trip_step WHERE instance_id = :id AND step = :step", id=trip_id, step=step
        )
        return rows[0] if rows else None

    async def count(self, table: str) -> int:
        return int(await self.value(f"SELECT count(*) FROM {table}"))

    async def booked(self, what: str) -> dict[str, int]:
        """How often this was booked for each trip, of those for which it was at all."""
        return dict(
            await self.rows(
                "SELECT trip_id, count(*) FROM booking WHERE what = :what GROUP BY trip_id", what=what
            )
        )
