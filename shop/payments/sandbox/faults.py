"""Single ways in which the sandbox gateway can be told to fail, for one order or for all, a number of times or for good."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from http import HTTPStatus

from pydantic import BaseModel, ConfigDict, Field


class Move(StrEnum):
    """What can be asked of the gateway."""

    CREATE = "create"
    CONFIRM = "confirm"
    CANCEL = "cancel"
    REFUND = "refund"
    GET = "get"
    FIND = "find"
    LIST = "list"


class Fault(StrEnum):
    """What becomes of a request. Unless it says that the work is done, it is not."""

    SLOW = "slow"
    """The work is done, and answered, `ms` later."""
    ERROR_500 = "error_500"
    ERROR_502 = "error_502"
    ERROR_429 = "error_429"
    ERROR_500_AFTER = "error_500_after"
    """The work is done, and the answer is an error all the same."""
    RESET_BEFORE = "reset_before"
    """The connection is reset."""
    RESET_AFTER = "reset_after"
    """The work is done, and the connection is reset."""
    GARBAGE = "garbage"
    """The work is done, and the answer is not even text."""
    TRUNCATED = "truncated"
    """The work is done, and half of the answer arrives."""
    MISLABELLED = "mislabelled"
    """The work is done, and the answer is labelled as a web page."""
    WEB_PAGE = "web_page"
    """A proxy answers 200 with a page of its own."""
    LATE = "late"
    """The work is done `ms` after the client has given up."""
    PROCESSING = "processing"
    """A confirmation is accepted and takes effect `ms` later. Until then the payment looks as before, and another confirmation, or a
    cancellation, is refused with 409: it is in progress."""
    DUPLICATE = "duplicate"
    """Refused with 409: this was asked before."""
    STALE = "stale"
    """Finding an order's payments finds none of them yet."""


ERRORS = {
    Fault.ERROR_500: HTTPStatus.INTERNAL_SERVER_ERROR,
    Fault.ERROR_502: HTTPStatus.BAD_GATEWAY,
    Fault.ERROR_429: HTTPStatus.TOO_MANY_REQUESTS,
    Fault.ERROR_500_AFTER: HTTPStatus.INTERNAL_SERVER_ERROR,
}


class FaultRule(BaseModel):
    """A fault, and whom it meets: whatever is left out matches everything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fault: Fault
    move: Move | None = None
    order_id: str | None = None
    times: int | None = Field(default=None, ge=1, description="After so many it is over; left out: never")
    ms: float = Field(default=0, ge=0, le=600_000)


class Faults:
    """The rules in force. The first that matches and is not over is what happens."""

    def __init__(self, rules: Sequence[FaultRule]) -> None:
        self._rules = list(rules)
        self._left = [rule.times for rule in rules]

    def __bool__(self) -> bool:
        return bool(self._rules)

    def next(self, move: Move, order_id: str | None) -> FaultRule | None:
        """What happens to this request; counts it."""
        for place, rule in enumerate(self._rules):
            left = self._left[place]
            if left == 0 or rule.move not in {None, move} or rule.order_id not in {None, order_id}:
                continue
            if left is not None:
                self._left[place] = left - 1
            return rule
        return None
