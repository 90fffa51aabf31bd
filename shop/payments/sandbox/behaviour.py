"""Misbehaviour of the sandbox gateway, selected by test card or by switch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum, auto
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shop.payments.sandbox.faults import FaultRule


@dataclass(frozen=True, slots=True)
class Card:
    """The behaviour of a card. By default it pays and accepts refunds."""

    declined: str | None = None
    """The reason for which the bank declines."""
    failing_confirms: int = 0
    """The number of a payment's first confirmations that fail with a retryable error."""
    first_answer_lost: bool = False
    """The first confirmation charges, and its answer does not arrive."""
    refunds_refused: bool = False


TEST_CARDS = {
    "0000": Card(declined="card_declined"),
    "0002": Card(declined="insufficient_funds"),
    "0119": Card(failing_confirms=2),
    "0341": Card(first_answer_lost=True),
    "0259": Card(refunds_refused=True),
}
"""By the card's last four digits."""
GOOD_CARD = Card()

Share = Annotated[float, Field(ge=0, le=1)]


class Behaviour(BaseModel):
    """Misbehaviour of the gateway for all requests. By default there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    forget_keys: bool = Field(default=False, description="Ignore idempotency keys")
    take_refunds: bool = Field(default=False, description="Accept refunds to cards that refuse them")
    error_rate: Share = Field(
        default=0,
        description="Share of requests answered with 500: half of them before the work, half after it",
    )
    hang_rate: Share = Field(
        default=0, description="Share of requests whose work is done and that get no answer"
    )
    latency_ms: float = Field(default=0, ge=0, le=600_000, description="Delay before each request's work")
    faults: tuple[FaultRule, ...] = Field(
        default=(), description="Faults for one order or for all; they take precedence over the shares"
    )
    seed: int = Field(
        default=0, description="With the same seed, the n-th request from now on behaves the same"
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.error_rate + self.hang_rate > 1:
            raise ValueError("error_rate and hang_rate are shares of the same requests: together at most 1")
        return self

    @classmethod
    def from_env(cls) -> Behaviour:
        """Reads `SANDBOX_FORGET_KEYS`, `SANDBOX_ERROR_RATE` and so on.
        Raises ValueError if one is invalid."""
        variables = {name: os.environ.get(f"SANDBOX_{name.upper()}") for name in cls.model_fields}
        return cls.model_validate({name: value for name, value in variables.items() if value})


class Fate(Enum):
    """The treatment of a request."""

    ANSWERED = auto()
    FAILS_BEFORE = auto()
    """Answered with 500; the work is not done."""
    FAILS_AFTER = auto()
    """Answered with 500, although the work is done."""
    HANGS = auto()
    """The work is done; there is no answer."""
