"""A second saga on the same engine: a trip needs a flight, a hotel and a car. There is no car, so the
bookings are undone in reverse.

make example            # books the trip, and says how it ended
make example CRASH=1    # dies in the middle (kill -9); the next start finishes what it left
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from prefect import flow
from pydantic import BaseModel

from saga import Kind, Saga, SagaInstance, SagaStore, Step, StepError, create_tables, transaction
from saga.prefect import external_compensation, external_step, process, recover


class Trip(BaseModel):
    id: str
    traveller: str


class NoCarLeft(StepError):
    """Every car is taken."""

    code, refusal = "no_car_left", True


@external_step()
async def book_flight(trip: SagaInstance[Trip]) -> dict[str, str]:
    return {"flight": f"F-{trip.id}"}  # a real one sends a request, with the trip's id as its idempotency key


@external_compensation()
async def cancel_flight(trip: SagaInstance[Trip]) -> dict[str, str]:
    return {"cancelled": f"F-{trip.id}"}


@external_step()
async def book_hotel(trip: SagaInstance[Trip]) -> dict[str, str]:
    if "--crash" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"hotel": f"H-{trip.id}"}


@external_compensation()
async def cancel_hotel(trip: SagaInstance[Trip]) -> dict[str, str]:
    return {"cancelled": f"H-{trip.id}"}


@external_step()
async def rent_car(trip: SagaInstance[Trip]) -> dict[str, str]:
    raise NoCarLeft(f"no car for {trip.payload.traveller}")


TRIPS = SagaStore("trip", journal="trip_step", leases="trip_lease", parse=Trip.model_validate)
TRIP_SAGA = Saga(
    Step(book_flight, cancel_flight, Kind.COMPENSATABLE, time_limit=10, retries=2),
    Step(book_hotel, cancel_hotel, Kind.COMPENSATABLE, time_limit=10, retries=2),
    Step(rent_car, None, Kind.PIVOT, time_limit=10, retries=2),
)


@flow(name="book-trip")
async def book_trip(trip: Trip) -> str:
    async with transaction() as tx:
        await create_tables(tx, TRIPS)
    await recover(TRIP_SAGA, TRIPS)  # what an earlier run left behind
    return await process(TRIP_SAGA, TRIPS, trip.id, trip.model_dump())


if __name__ == "__main__":
    print(asyncio.run(book_trip(Trip(id="T-1", traveller="Ada"))))
