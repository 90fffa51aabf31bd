"""Misbehaviour of the sandbox gateway, selected by test card or by switch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from http import HTTPStatus
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Move(StrEnum):
    CREATE = "create"
    CONFIRM = "confirm"
    CANCEL = "cancel"
    REFUND = "refund"
    GET = "get"
    FIND = "find"
    LIST = "list"


class Fault(StrEnum):
    """A way to fail. The work is not done unless the description says so."""

    SLOW = "slow"
    """The work is done and answered after `ms`."""
    ERROR_500 = "error_500"
    ERROR_502 = "error_502"
    ERROR_429 = "error_429"
    ERROR_500_AFTER = "error_500_after"
    """The work is done, but the answer is an error."""
    RESET_BEFORE = "reset_before"
    """The connection is reset."""
    RESET_AFTER = "reset_after"
    """The work is done, and the connection is reset."""
    GARBAGE = "garbage"
    """The work is done, and the answer is not text."""
    TRUNCATED = "truncated"
    """The work is done, and half of the answer arrives."""
    MISLABELLED = "mislabelled"
    """The work is done, and the answer has the content type of a web page."""
    WEB_PAGE = "web_page"
    """A proxy answers 200 with its own page."""
    LATE = "late"
    """The work is done `ms` after the client has given up."""
    PROCESSING = "processing"
    """A confirmation is accepted and takes effect after `ms`. Until then the payment is unchanged, and
    another confirmation or a cancellation is refused with 409 (in progress)."""
    DUPLICATE = "duplicate"
    """Refused with 409 (duplicate request)."""
    STALE = "stale"
    """The search for an order's payments does not find any of them yet."""


ERRORS = {
    Fault.ERROR_500: HTTPStatus.INTERNAL_SERVER_ERROR,
    Fault.ERROR_502: HTTPStatus.BAD_GATEWAY,
    Fault.ERROR_429: HTTPStatus.TOO_MANY_REQUESTS,
    Fault.ERROR_500_AFTER: HTTPStatus.INTERNAL_SERVER_ERROR,
}


class FaultRule(BaseModel):
    """A fault and the requests that it affects. Omitted conditions match everything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fault: Fault
    move: Move | None = None
    order_id: str | None = None
    times: int | None = Field(
        default=None, ge=1, description="Number of affected requests; omitted: no limit"
    )
    ms: float = Field(default=0, ge=0, le=600_000)


class Faults:
    """The active rules. The first matching rule that is not used up applies."""

    def __init__(self, rules: Sequence[FaultRule]) -> None:
        self._rules = list(rules)
        self._left = [rule.times for rule in rules]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def next(self, move: Move, order_id: str | None) -> FaultRule | None:
        """Returns the rule that applies to this request, and counts its use."""
        for place, rule in enumerate(self._rules):
            left = self._left[place]
            if left == 0 or rule.move not in {None, move} or rule.order_id not in {None, order_id}:
                continue
            if left is not None:
                self._left[place] = left - 1
            return rule
        return None


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
    ANSWERED = auto()
    FAILS_BEFORE = auto()
    """Answered with 500; the work is not done."""
    FAILS_AFTER = auto()
    """Answered with 500, although the work is done."""
    HANGS = auto()
    """The work is done; there is no answer."""
