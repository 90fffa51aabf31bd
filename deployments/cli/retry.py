"""`order-saga retry ID`: tries an order again that ended uncompleted."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Group, Parameter

from deployments import terminal
from shop.orders.page.formatting import for_terminal
from shop.review.errors import RetryInvalid, ReviewError
from shop.settings import settings

_STANDARD_INPUT = "-"
_MEANS, _WHO = Group("Another means of payment", sort_key=1), Group("Who asks for it, and why", sort_key=2)


def _given(text: str, group: Group) -> Parameter:
    return Parameter(help=text, group=group)


def retry(
    order: str,
    /,
    *,
    token: Annotated[
        str | None, _given("The gateway's token of another card; - reads it from standard input.", _MEANS)
    ] = None,
    method: Annotated[str | None, _given("Such as debit_card. Default: the order's.", _MEANS)] = None,
    card_last4: Annotated[str | None, _given("The card's last four digits, never more.", _MEANS)] = None,
    by: Annotated[str | None, _given("Your name. Stored with the order.", _WHO)] = None,
    reason: Annotated[str | None, _given("The reason. Stored with the order; no card data.", _WHO)] = None,
) -> int:
    """Try an order again that was rejected, out of stock or compensated.

    The order goes through all steps again under the same id. Its earlier tries stay visible: order-saga show.
    Asking again while the new try is under way changes nothing.

    Exit codes: 0; 1, the order cannot be tried again; 2, an argument or the settings are wrong, or the
    database does not answer.

    Args:
        order: The order's id, such as ORDER-1001.
    """
    settings()
    from deployments.trigger import retry_order
    from deployments.who import user

    if token == _STANDARD_INPUT:  # a token in the arguments is visible in the machine's list of processes
        token = sys.stdin.readline().strip()
    try:
        receipt = retry_order(
            order,
            token=token,
            method=method,
            card_last4=card_last4,
            requested_by=by,
            reason=reason,
            started_by=user("with order-saga"),
        )
    except RetryInvalid as error:
        for name, problem in error.problems.items():
            option = "by" if name == "requested_by" else name.replace("_", "-")
            terminal.write(f"--{option}: {problem}", sys.stderr)
        return 2
    except ReviewError as error:
        return terminal.refused(str(error), code=1)
    shown, number = for_terminal(receipt.order_id), receipt.try_number
    if receipt.status == "under_way":
        terminal.write(f"Try {number} of order {shown} is under way already: nothing was changed.")
    else:
        terminal.write(
            f"Try {number} of order {shown} begins: a running worker takes it to its outcome. "
            f"See order-saga show --ascii {shown}."
        )
    return 0
