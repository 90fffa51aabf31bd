"""How the sandbox gateway misbehaves: by test card, or by switch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum, auto
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from shop.payments.sandbox.faults import FaultRule


@dataclass(frozen=True, slots=True)
class Card:
    """What a card does; left as it is, it pays and takes refunds."""

    declined: str | None = None
    """The bank's reason for saying no."""
    failing_confirms: int = 0
    """So many first confirms of a payment fail with an error that a retry cures."""
    first_answer_lost: bool = False
    """The first confirm charges, and its answer does not arrive."""
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
    """How the gateway misbehaves towards everybody; left as it is, not at all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    forget_keys: bool = Field(default=False, description="Ignore idempotency keys")
    take_refunds: bool = Field(default=False, description="Cards that refuse refunds take them after all")
    error_rate: Share = Field(default=0, description="Share of requests answered 500: half of them before the work is done, half after")
    hang_rate: Share = Field(default=0, description="Share of requests whose work is done and that are never answered")
    latency_ms: float = Field(default=0, ge=0, le=600_000, description="Wait before each request's work")
    faults: tuple[FaultRule, ...] = Field(default=(), description="Single faults, for one order or for all; they go before the shares")
    seed: int = Field(default=0, description="The n-th request from now on has the same fate with the same seed")

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.error_rate + self.hang_rate > 1:
            raise ValueError("error_rate and hang_rate are shares of the same requests: together at most 1")
        return self

    @classmethod
    def from_env(cls) -> Behaviour:
        """From `SANDBOX_FORGET_KEYS`, `SANDBOX_ERROR_RATE` and so on; ValueError if one makes no sense."""
        variables = {name: os.environ.get(f"SANDBOX_{name.upper()}") for name in cls.model_fields}
        return cls.model_validate({name: value for name, value in variables.items() if value})


class Fate(Enum):
    """What becomes of one request."""

    ANSWERED = auto()
    FAILS_BEFORE = auto()
    """An error 500; nothing was done."""
    FAILS_AFTER = auto()
    """An error 500, although the work was done."""
    HANGS = auto()
    """The work is done; no answer."""
