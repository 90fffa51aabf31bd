"""Faults of the sandbox gateway, for one order or for all, a number of times or permanently."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from http import HTTPStatus

from pydantic import BaseModel, ConfigDict, Field


class Move(StrEnum):
    """An operation of the gateway."""

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
