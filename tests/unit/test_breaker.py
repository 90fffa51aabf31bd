"""The circuit breaker around the gateway: when it opens, when it tries again, what it tells, and whom it does not punish."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from saga import circuit_breaker
from shop.payments.breaker import GuardedGateway
from shop.payments.errors import PaymentDeclined, PaymentError, PaymentGatewayError, PaymentGatewayTimeout, PaymentGatewayUnavailable
from tests.waiting import until

PAUSE = 0.15
DOWN = PaymentGatewayError("unreachable", "nobody there", retryable=True)


class Inner:
    """A gateway that answers as the test says."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: PaymentError | None = None
        self.hold: asyncio.Event | None = None

    async def find(self, _order_id: str, *, installation: str | None = None) -> list[Any]:
        self.calls += 1
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return []


class Till:
    def __init__(self, failures: int = 3, concurrency: int = 100) -> None:
        self.inner, self.told = Inner(), list[str | None]()
        self.gateway = GuardedGateway(
            self.inner,  # type: ignore[arg-type]
            failures=failures,
            pause_seconds=PAUSE,
            concurrency=concurrency,
            on_change=self.told.append,
        )

    async def ask(self) -> str:
        try:
            await self.gateway.find("O")
        except PaymentError as error:
            return type(error).__name__
        return "answered"

    async def ask_in_turn(self, times: int) -> list[str]:
        return [await self.ask() for _ in range(times)]

    async def until_it_may_be_tried(self) -> None:
        async def half_open() -> bool:
            return not self.gateway._circuit._circuit.opened

        await until(half_open, 5, "the pause to end")


async def test_after_failures_in_a_row_calls_fail_at_once() -> None:
    till = Till()
    till.inner.error = DOWN
    answers = await till.ask_in_turn(10)
    assert answers == ["PaymentGatewayError"] * 2 + ["PaymentGatewayUnavailable"] * 8, "the third opens it"
    assert till.inner.calls == 3, "and nobody bothers the gateway any more"
    assert till.told == ["nobody there (unreachable)"], "told once"


async def test_what_it_raises_can_be_retried_later() -> None:
    till = Till(failures=1)
    till.inner.error = DOWN
    with pytest.raises(PaymentGatewayUnavailable) as away:
        await till.gateway.find("O")
    assert isinstance(away.value, PaymentGatewayError)
    assert away.value.retryable
    assert away.value.retry_after == pytest.approx(PAUSE)


@pytest.mark.parametrize(
    "no",
    [
        PaymentDeclined("card_declined", "no"),
        PaymentGatewayError("refund_refused", "no", retryable=False),
        PaymentGatewayError("processing_error", "not this card just now", retryable=True),
    ],
    ids=lambda error: error.error_code,
)
async def test_a_no_is_no_failure(no: PaymentError) -> None:
    till = Till()
    till.inner.error = no
    assert set(await till.ask_in_turn(10)) == {type(no).__name__}
    assert till.told == []


async def test_only_failures_in_a_row_count() -> None:
    till = Till()
    answers: list[PaymentError | None] = [DOWN, DOWN, None, DOWN, PaymentGatewayTimeout("late"), PaymentDeclined("x", "no"), DOWN, DOWN]
    for error in answers:
        till.inner.error = error
        assert await till.ask() != "PaymentGatewayUnavailable"
    assert till.told == []


async def test_after_a_pause_one_call_tries_it() -> None:
    till = Till(failures=1)
    till.inner.error = DOWN
    await till.ask()
    await till.until_it_may_be_tried()
    till.inner.error, till.inner.hold = None, asyncio.Event()
    asked = [asyncio.create_task(till.ask()) for _ in range(20)]

    async def others_are_refused() -> bool:
        return sum(ask.done() for ask in asked) == 19

    await until(others_are_refused, 5, "the other calls to fail at once")
    assert till.inner.calls == 2, "one call tries it"
    till.inner.hold.set()
    answers = await asyncio.gather(*asked)
    assert sorted(answers) == ["PaymentGatewayUnavailable"] * 19 + ["answered"]
    assert await till.ask_in_turn(3) == ["answered"] * 3
    assert till.told == ["nobody there (unreachable)", None]


async def test_if_the_try_fails_it_is_left_alone_again() -> None:
    till = Till(failures=3)
    till.inner.error = DOWN
    await till.ask_in_turn(3)
    for _ in range(3):
        await till.until_it_may_be_tried()
        assert await till.ask_in_turn(3) == ["PaymentGatewayUnavailable"] * 3
    assert till.inner.calls == 6
    assert till.told == ["nobody there (unreachable)"], "still the same absence"


async def test_a_try_that_is_cancelled_lets_another_try() -> None:
    till = Till(failures=1)
    till.inner.error = DOWN
    await till.ask()
    await till.until_it_may_be_tried()
    till.inner.hold = asyncio.Event()
    trying = asyncio.create_task(till.ask())

    async def instance() -> bool:
        return till.inner.calls == 2

    await until(instance, 5, "the try")
    trying.cancel()
    await asyncio.gather(trying, return_exceptions=True)
    till.inner.error = till.inner.hold = None
    assert await till.ask() == "answered"
    assert till.told == ["nobody there (unreachable)", None]


async def test_calls_that_wait_for_their_turn_do_not_try_in_vain() -> None:
    """Hundreds wait for a connection when the gateway goes away: only those that have one find out."""
    till = Till(failures=4, concurrency=4)
    till.inner.error = DOWN
    answers = await asyncio.gather(*(till.ask() for _ in range(200)))
    assert till.inner.calls == 4
    assert answers.count("PaymentGatewayUnavailable") == 197


async def test_the_longer_it_is_away_the_longer_orders_wait_up_to_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    till, now = Till(failures=1), 1000.0
    clock: Callable[[], float] = lambda: now  # noqa: E731
    monkeypatch.setattr(circuit_breaker.time, "monotonic", clock)
    till.gateway._circuit._circuit._opened = now
    till.inner.error = DOWN
    waits = []
    for away in (0.0, 5.0, 30.0, 600.0):
        now = 1000.0 + away
        with pytest.raises(PaymentGatewayUnavailable) as error:
            await till.gateway.find("O")
        waits.append(error.value.retry_after)
    assert waits == [pytest.approx(PAUSE), 5.0, 30.0, 60.0]
