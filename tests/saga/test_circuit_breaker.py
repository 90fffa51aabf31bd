"""The circuit breaker: when it opens, when it tries again, what it reports, and what is no failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from saga import circuit_breaker
from saga.circuit_breaker import Circuit
from saga.errors import StepError
from tests.saga.trips import Busy, NoSeat, Unavailable
from tests.waiting import until

PAUSE = 0.15
DOWN = Busy("unreachable")


class Airline:
    """An external system behind a circuit, which answers as the test says."""

    def __init__(self, failures: int = 3, concurrency: int = 100) -> None:
        self.calls = 0
        self.error: StepError | None = None
        self.hold: asyncio.Event | None = None
        self.reported: list[str | None] = []
        self.circuit = Circuit(
            failures=failures,
            pause_seconds=PAUSE,
            concurrency=concurrency,
            is_failure=lambda _kind, error: isinstance(error, Busy),
            unavailable=Unavailable,
            on_change=self.reported.append,
        )

    async def answer(self) -> None:
        self.calls += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error

    async def ask(self) -> str:
        try:
            await self.circuit.ask(self.answer)
        except StepError as error:
            return type(error).__name__
        return "answered"

    async def ask_in_turn(self, times: int) -> list[str]:
        return [await self.ask() for _ in range(times)]

    async def until_half_open(self) -> None:
        async def half_open() -> bool:
            return not self.circuit._circuit.opened

        await until(half_open, 5, "the pause to end")


async def test_after_failures_in_a_row_calls_fail_at_once() -> None:
    airline = Airline()
    airline.error = DOWN
    assert await airline.ask_in_turn(10) == ["Busy"] * 2 + ["Unavailable"] * 8, "the third opens it"
    assert airline.calls == 3, "and nobody bothers the airline any more"
    assert airline.reported == ["unreachable"], "once"


async def test_what_it_raises_states_when_to_retry() -> None:
    airline = Airline(failures=1)
    airline.error = DOWN
    with pytest.raises(Unavailable) as raised:
        await airline.circuit.ask(airline.answer)
    assert raised.value.retry_after == pytest.approx(PAUSE)
    assert raised.value.__cause__ is DOWN


async def test_a_refusal_is_no_failure() -> None:
    airline = Airline()
    airline.error = NoSeat()
    assert set(await airline.ask_in_turn(10)) == {"NoSeat"}
    assert airline.reported == []


async def test_only_failures_in_a_row_count() -> None:
    airline = Airline()
    for error in (DOWN, DOWN, None, DOWN, DOWN, NoSeat(), DOWN, DOWN):
        airline.error = error
        assert await airline.ask() != "Unavailable"
    assert airline.reported == []


async def test_after_a_pause_one_call_tries_it() -> None:
    airline = Airline(failures=1)
    airline.error = DOWN
    await airline.ask()
    await airline.until_half_open()
    airline.error, airline.hold = None, asyncio.Event()
    asked = [asyncio.create_task(airline.ask()) for _ in range(20)]

    async def others_are_refused() -> bool:
        return sum(ask.done() for ask in asked) == 19

    await until(others_are_refused, 5, "the other calls to fail at once")
    assert airline.calls == 2, "one call tries it"
    airline.hold.set()
    assert sorted(await asyncio.gather(*asked)) == ["Unavailable"] * 19 + ["answered"]
    assert await airline.ask_in_turn(3) == ["answered"] * 3
    assert airline.reported == ["unreachable", None]


async def test_if_the_try_fails_the_circuit_opens_again() -> None:
    airline = Airline(failures=3)
    airline.error = DOWN
    await airline.ask_in_turn(3)
    for _ in range(3):
        await airline.until_half_open()
        assert await airline.ask_in_turn(3) == ["Unavailable"] * 3
    assert airline.calls == 6
    assert airline.reported == ["unreachable"], "still the same outage"


async def test_a_try_that_is_cancelled_lets_another_try() -> None:
    airline = Airline(failures=1)
    airline.error = DOWN
    await airline.ask()
    await airline.until_half_open()
    airline.hold = asyncio.Event()
    trying = asyncio.create_task(airline.ask())

    async def called() -> bool:
        return airline.calls == 2

    await until(called, 5, "the try")
    trying.cancel()
    await asyncio.gather(trying, return_exceptions=True)
    airline.error = airline.hold = None
    assert await airline.ask() == "answered"
    assert airline.reported == ["unreachable", None]


async def test_calls_that_wait_for_their_turn_do_not_call_a_failing_service() -> None:
    """Hundreds wait for a connection when the airline fails: only calls that have one notice."""
    airline = Airline(failures=4, concurrency=4)
    airline.error = DOWN
    answers = await asyncio.gather(*(airline.ask() for _ in range(200)))
    assert airline.calls == 4
    assert answers.count("Unavailable") == 197


async def test_the_longer_the_outage_the_longer_the_pause_up_to_a_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    airline, now = Airline(failures=1), 1000.0
    clock: Callable[[], float] = lambda: now  # noqa: E731
    monkeypatch.setattr(circuit_breaker.time, "monotonic", clock)
    airline.circuit._circuit._opened = now
    airline.error = DOWN
    pauses = []
    for outage in (0.0, 5.0, 30.0, 600.0):
        now = 1000.0 + outage
        with pytest.raises(Unavailable) as error:
            await airline.circuit.ask(airline.answer)
        pauses.append(error.value.retry_after)
    assert pauses == [pytest.approx(PAUSE), 5.0, 30.0, 60.0]
