"""`order-saga cancel ID`: shows what cancelling an order undoes and costs, and cancels it."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.prompt import Confirm
from rich.table import Table
from rich.text import Text

from deployments import terminal
from shop.orders.page.formatting import for_terminal
from shop.review.errors import OrderUnknown, ResolutionIncomplete
from shop.review.preview import CancelPreview, Effect
from shop.settings import settings


def cancel(
    order: str,
    /,
    *,
    reason: str = "",
    by: str = "",
    yes: Annotated[bool, Parameter(alias="-y")] = False,
    dry_run: bool = False,
    timeout: float = 60,
) -> int:
    """Cancel an order, or return it if it is shipped. First shows what that undoes and costs.

    A worker cancels it: the request is stored, and happens whatever fails. Asking again changes nothing.

    Exit codes: 0, it is cancelled, or with --dry-run shown; 1, there is no such order, there is nothing to
    cancel, a person must act, or it has no outcome yet; 2, an argument or the settings are wrong, or the
    database does not answer.

    Args:
        order: The order's id, such as ORDER-1001.
        reason: Required: why. Stored with the order; no card data.
        by: Required: who asks for it. Stored with the order.
        yes: Do not ask for confirmation.
        dry_run: Only show what cancelling would undo and cost.
        timeout: Limits the wait for the outcome, in seconds; 0 does not wait.
    """
    settings()
    from deployments.review import preview_cancel

    console = terminal.console(width=100)
    try:
        seen = preview_cancel(order)
    except OrderUnknown:
        return terminal.refused(f"There is no order {for_terminal(order)}. Ids are case-sensitive.", code=1)
    console.print(_table(seen))
    if dry_run:
        return 0
    if seen.effect is Effect.NOTHING:
        return terminal.refused("Nothing was changed.", code=1)
    if missing := [option for option, given in (("--reason", reason), ("--by", by)) if not given.strip()]:
        return terminal.refused(f"Missing: {' and '.join(missing)}. Nothing was changed.")
    if not yes and not _confirmed(console):
        return terminal.refused("Nothing was changed. To cancel without being asked, give --yes.")
    return _cancel(order, reason, by, timeout)


def _confirmed(console: Console) -> bool:
    return sys.stdin.isatty() and Confirm.ask("Cancel it?", console=console, default=False)


def _cancel(order: str, reason: str, by: str, timeout: float) -> int:
    from deployments.review import ask_to_cancel, outcome_of

    try:
        ask_to_cancel(order, reason=reason, requested_by=by, through="order-saga")
        known = outcome_of(order, timeout)
    except ResolutionIncomplete as error:
        return terminal.refused("; ".join(error.problems).replace("requested_by", "--by", 1))
    except TimeoutError:
        terminal.write(
            f"The request is stored. A running worker cancels it: see order-saga show {for_terminal(order)}."
        )
        return 1 if timeout else 0
    from deployments.cli.outcome_table import outcome_table
    from shop.orders.outcomes import Outcome

    terminal.console(width=130).print(outcome_table("Cancelled", [(order, known)]))
    return int(known.outcome not in {Outcome.COMPENSATED, Outcome.OUT_OF_STOCK, Outcome.REJECTED})


def _table(seen: CancelPreview) -> Table:
    table = terminal.table("If it is cancelled now", "", "")
    table.show_header = False
    for what, how in seen.lines():
        table.add_row(Text(what, "bold"), Text(how))
    return table
