"""Errors of manual review actions; each says what to do instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import ClassVar

from saga.errors import StepError
from shop.orders.errors import Problem
from shop.values.money import exact


class ReviewError(StepError):
    """Base class. Nothing was changed."""

    code = "desk_error"


class _AboutOrder(ReviewError):
    """An error about one order; `message` has its id and further words."""

    message: ClassVar[str]

    def __init__(self, order_id: str, **words: str) -> None:
        super().__init__(self.message.format(order=repr(order_id), **words))


class OrderUnknown(_AboutOrder):
    """No such order exists."""

    code = "order_unknown"
    message = "there is no order {order}: give exactly the id with which it was submitted"


class NotUnderReview(ReviewError):
    """The order is not under manual review."""

    code = "not_on_the_desk"


class AlreadyResolved(ReviewError):
    """The order was resolved in another way."""

    code = "already_resolved"


class ResolutionIncomplete(ReviewError):
    """Input that this resolution needs is missing or invalid."""

    code = "resolution_incomplete"

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems

    def reasons(self) -> list[str]:
        return list(self.problems)


class AmountChanged(ReviewError):
    """The amount at risk is not the one that the person saw."""

    code = "amount_changed"

    def __init__(self, order_id: str, *, seen: tuple[Decimal, str], at_risk: tuple[Decimal, str]) -> None:
        """`seen`, `at_risk`: amount and currency."""
        self.seen, self.at_risk = seen, at_risk
        given, now = (f"{exact(amount, currency):,} {currency}" for amount, currency in (seen, at_risk))
        super().__init__(
            f"{now} are at risk for order {order_id}, and not {given}, so nothing was changed: "
            "look at it again (order-saga review show), and decide about that amount"
        )


class RefundedAlready(ReviewError):
    """The gateway has refunded the money, or never had it: there is nothing to refund by hand."""

    code = "refunded_already"


class GatewayNotAsked(ReviewError):
    """The gateway does not report what is left of the charge, so a refund by hand might be the second one."""

    code = "gateway_not_asked"
    retryable = True


class NothingToAccept(_AboutOrder):
    """The order has no open discrepancy."""

    code = "nothing_to_accept"
    message = (
        "order {order} has no open discrepancy: give exactly the id that the artifact reconciliation shows"
    )


class NotRetryable(_AboutOrder):
    """The order cannot be tried again, or not now: `why`, and what to do `instead`."""

    code = "not_retryable"
    message = "order {order} cannot be tried again: {why}. {instead}"


class RetryInvalid(ReviewError):
    """What was given for the next try is invalid. Nothing was stored."""

    code = "retry_invalid"

    def __init__(self, problems: Mapping[str, str]) -> None:
        """`problems`: by the name of what was given. They never repeat it."""
        self.problems = dict(problems)
        super().__init__("; ".join(self.reasons()))

    def reasons(self) -> list[str]:
        return [f"{name}: {problem}" for name, problem in self.problems.items()]


class OrderBusy(_AboutOrder):
    """A worker is retrying the order's compensations."""

    code = "order_busy"
    retryable = True
    message = (
        "a worker is retrying the compensations of order {order}: "
        "wait for the result, then look at the review queue again"
    )


class OrderHeld(_AboutOrder):
    """A worker holds the order at this moment."""

    code = "order_held"
    retryable = True
    message = "a worker is processing order {order} at this moment, so nothing was changed: try again"


class AddressSettled(_AboutOrder):
    """The order's address can no longer be changed, and `why`."""

    code = "address_settled"
    message = (
        "the address of order {order} was not changed: {why}. "
        "What is shipped can be returned: order-saga cancel"
    )


class AddressInvalid(ReviewError):
    """The new address is invalid. Nothing was changed. Carries every problem."""

    code = "address_invalid"

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problem.shortened() for problem in problems)
        super().__init__("; ".join(self.reasons()))

    def reasons(self) -> list[str]:
        return list(map(str, self.problems))
