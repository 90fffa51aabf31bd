"""The circuit breaker around the gateway: what it raises, and which answers are no failure of the gateway.
How a circuit works is `tests/saga/test_circuit_breaker.py`."""

from __future__ import annotations

from typing import Any

import pytest

from shop.payments.errors import (
    PaymentDeclined,
    PaymentError,
    PaymentGatewayError,
    PaymentGatewayTimeout,
    PaymentGatewayUnavailable,
)
from shop.payments.gateways import GatewayGuard

PAUSE = 0.15
DOWN = PaymentGatewayError("unreachable", "nobody there", retryable=True)


class Inner:
    """A gateway that answers as the test says."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: PaymentError | None = None

    async def find(self, _order_id: str) -> list[Any]:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return []


class Till:
    def __init__(self, failures: int = 3) -> None:
        self.inner, self.changes = Inner(), list[str | None]()
        self.guard = GatewayGuard(
            failures=failures,
            pause_seconds=PAUSE,
            concurrency=100,
            on_change=self.changes.append,
        )

    async def ask(self) -> str:
        try:
            await self.guard(lambda: self.inner.find("O"))
        except PaymentError as error:
            return type(error).__name__
        return "answered"

    async def ask_in_turn(self, times: int) -> list[str]:
        return [await self.ask() for _ in range(times)]


async def test_after_failures_in_a_row_calls_fail_at_once() -> None:
    till = Till()
    till.inner.error = DOWN
    answers = await till.ask_in_turn(10)
    assert answers == ["PaymentGatewayError"] * 2 + ["PaymentGatewayUnavailable"] * 8, "the third opens it"
    assert till.inner.calls == 3, "and nobody bothers the gateway any more"
    assert till.changes == ["nobody there (unreachable)"], "told once"


async def test_what_it_raises_can_be_retried_later() -> None:
    till = Till(failures=1)
    till.inner.error = DOWN
    with pytest.raises(PaymentGatewayUnavailable) as raised:
        await till.guard(lambda: till.inner.find("O"))
    assert isinstance(raised.value, PaymentGatewayError)
    assert raised.value.retryable
    assert raised.value.retry_after == pytest.approx(PAUSE)


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
    assert till.changes == []


async def test_a_declined_card_shows_that_the_gateway_works() -> None:
    till = Till()
    answers: list[PaymentError | None] = [
        DOWN,
        DOWN,
        None,
        DOWN,
        PaymentGatewayTimeout("late"),
        PaymentDeclined("x", "no"),
        DOWN,
        DOWN,
    ]
    for error in answers:
        till.inner.error = error
        assert await till.ask() != "PaymentGatewayUnavailable"
    assert till.changes == []


async def test_a_timeout_is_a_failure() -> None:
    till = Till()
    till.inner.error = PaymentGatewayTimeout("late")
    assert (await till.ask_in_turn(4))[2:] == ["PaymentGatewayUnavailable"] * 2
