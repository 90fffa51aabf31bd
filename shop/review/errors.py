"""Wrong use of the desk; each says what to do instead."""

from __future__ import annotations

from saga.errors import StepError


class DeskError(StepError):
    """Nothing was changed."""

    code = "desk_error"


class OrderUnknown(DeskError):
    """There is no such order."""

    code = "order_unknown"

    def __init__(self, order_id: str) -> None:
        super().__init__(f"there is no order {order_id!r}: give the id with which it was sent, letter by letter")


class NotOnTheDesk(DeskError):
    """The order does not need attention."""

    code = "not_on_the_desk"


class AlreadyResolved(DeskError):
    """The order has been settled in another way."""

    code = "already_resolved"


class ResolutionIncomplete(DeskError):
    """Something is missing that this resolution needs, or makes no sense."""

    code = "resolution_incomplete"

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems

    def reasons(self) -> list[str]:
        return list(self.problems)


class RefundedAlready(DeskError):
    """The gateway says that the money has gone back, or that there was none: nothing is to be refunded by hand."""

    code = "refunded_already"


class GatewayNotAsked(DeskError):
    """The gateway does not say what is left of the order's charge, so that nobody can tell whether a refund by hand is the second one."""

    code = "gateway_not_asked"
    retryable = True


class NothingToAccept(DeskError):
    """No discrepancy of the order is open."""

    code = "nothing_to_accept"

    def __init__(self, order_id: str) -> None:
        super().__init__(
            f"no discrepancy of order {order_id!r} is open: give the id as the artifact reconciliation has it, letter by letter"
        )


class OrderBusy(DeskError):
    """A worker tries again to undo the order just now."""

    code = "order_busy"
    retryable = True

    def __init__(self, order_id: str) -> None:
        super().__init__(f"a worker is trying again to undo order {order_id} just now: wait for how that ends, and look at the desk again")
