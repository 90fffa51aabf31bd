"""`order-saga review`: the orders under manual review. Needs the database, `refunded` also the payment
gateway; never Prefect."""

from __future__ import annotations

import json as json_module
import sys

from cyclopts import App

from deployments import terminal
from deployments.cli.review.decide import decide, selected
from deployments.cli.review.options import Filters, Who
from deployments.cli.review.shown import details, listed
from shop.orders.page.story import read_story_sync
from shop.review.attention import Selection, select_sync
from shop.review.resolution import Resolution

_ANYTHING, _UNNAMED = Filters(), Who()

review = App(
    name="review",
    help="""List and resolve the orders under manual review.

A decision is stored with who made it and why, as by the flow resolve-order. Needs only the database (refunded
also the payment gateway) and no Prefect server: it starts no run. retry, refunded and write-off reopen the
order, and a running worker or consumer takes it to its outcome; without one the order stays open until one
starts.

Exit codes: 0, done, or decided before; 1, some orders were refused, and the table shows why; 2, arguments or
settings are invalid and nothing was done, or the database stopped answering, and the table shows what was
done before.""",
)


@review.command(name="list")
def list_(*, filters: Filters = _ANYTHING, json: bool = False) -> int:
    """List the orders under manual review, the oldest first.

    Args:
        json: Print JSON, one order per line.
    """
    if (selection := selected(filters)) is None:
        return 2
    cases = select_sync(selection)
    if json:
        for case in cases:
            terminal.write_json(case.model_dump_json())
    else:
        terminal.console(width=150).print(listed(cases))
    return 0


@review.command
def show(*orders: str, json: bool = False) -> int:
    """Show orders under manual review in detail: the error, what to do, earlier decisions.

    Args:
        orders: Their ids.
        json: Print JSON, one order per line.
    """
    cases = {case.order_id: case for case in select_sync(Selection(), orders)}
    for order_id in orders:
        if order_id not in cases:
            terminal.write(f"{order_id} was never under manual review", sys.stderr)
            continue
        story = read_story_sync(order_id)
        decisions = story.review if story else ()
        if json:
            terminal.write_json(json_module.dumps(details(cases[order_id], decisions)))
        else:
            for name, value in details(cases[order_id], decisions).items():
                terminal.write(f"{name:>15}  {value}")
    return int(any(order_id not in cases for order_id in orders))


@review.command
def retry(*orders: str, filters: Filters = _ANYTHING, who: Who = _UNNAMED) -> int:
    """Reopen orders, so that a running worker or consumer retries their compensations at once.

    Args:
        orders: Their ids, unless --all is given.
    """
    return decide(Resolution.RETRY_NOW, orders, filters, who)


@review.command
def hold(*orders: str, filters: Filters = _ANYTHING, who: Who = _UNNAMED) -> int:
    """Stop automatic retries: a person handles it.

    Args:
        orders: Their ids, unless --all is given.
    """
    return decide(Resolution.HOLD, orders, filters, who)


@review.command
def refunded(
    *orders: str, filters: Filters = _ANYTHING, who: Who = _UNNAMED, reference: str | None = None
) -> int:
    """Record a refund outside the gateway, after asking the gateway whether it has refunded the money.

    Args:
        orders: Their ids, unless --all is given.
        reference: Required: a proof, such as the number of a bank transfer. No card data.
    """
    return decide(Resolution.REFUNDED_BY_HAND, orders, filters, who, reference)


@review.command
def write_off(*orders: str, filters: Filters = _ANYTHING, who: Who = _UNNAMED) -> int:
    """Write off what is still due. Needs --reason.

    Args:
        orders: Their ids, unless --all is given.
    """
    return decide(Resolution.WRITTEN_OFF, orders, filters, who)
