"""`order-saga cancel`, `retry` and `address`: what people change about an order."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Annotated, Any

from cyclopts import Group, Parameter
from rich.console import Console
from rich.prompt import Confirm
from rich.text import Text

from deployments import terminal
from deployments.cli.entries import InputError, read_file, read_json
from deployments.cli.seconds import Wait
from deployments.running import user
from deployments.terminal import FittedTable
from shop.orders.page.formatting import for_terminal
from shop.review.address import change_address
from shop.review.errors import AddressInvalid, OrderUnknown, ResolutionIncomplete, RetryInvalid, ReviewError
from shop.review.preview import CancelPreview, Effect
from shop.runtime.sync import run_sync
from shop.settings import settings


def cancel(
    order: str,
    /,
    *,
    reason: str = "",
    by: str = "",
    yes: Annotated[bool, Parameter(alias="-y")] = False,
    dry_run: bool = False,
    timeout: Wait = 60,
) -> int:
    """Cancel an order, or return it if it is shipped. First shows what that undoes and costs.

    A worker cancels it: the request is stored, and happens whatever fails. Asking again changes nothing.

    Exit codes: 0, it is cancelled, or with --dry-run shown; 1, there is no such order, there is nothing to
    cancel, a person must act, or it has no outcome yet; 2, an argument or the settings are wrong, or the
    database does not answer.

    Args:
        order: The order's id, such as ORDER-1001.
        reason: Why; required without --dry-run. Stored with the order; no card data.
        by: Who asks for it; required without --dry-run. Stored with the order.
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
    from deployments.review import ask_to_cancel
    from deployments.trigger import wait_for_outcome

    try:
        ask_to_cancel(order, reason=reason, requested_by=by, through="order-saga")
        known = wait_for_outcome(order, timeout)
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


def _table(seen: CancelPreview) -> FittedTable:
    table = terminal.table("If it is cancelled now", "", " ", wrapped=" ")
    for what, how in seen.lines():
        table.add_row(Text(what, "bold"), Text(how))
    return table


_STANDARD_INPUT = "-"
_MEANS, _WHO = Group("Another means of payment", sort_key=1), Group("Who asks for it, and why", sort_key=2)


def _option(text: str, group: Group) -> Parameter:
    return Parameter(help=text, group=group)


def retry(
    order: str,
    /,
    *,
    token: Annotated[
        str | None, _option("The gateway's token of another card; - reads it from standard input.", _MEANS)
    ] = None,
    method: Annotated[str | None, _option("Such as debit_card. Default: the order's.", _MEANS)] = None,
    card_last4: Annotated[str | None, _option("The card's last four digits, never more.", _MEANS)] = None,
    by: Annotated[str | None, _option("Your name. Stored with the order.", _WHO)] = None,
    reason: Annotated[str | None, _option("The reason. Stored with the order; no card data.", _WHO)] = None,
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
    from deployments.running import user
    from deployments.trigger import retry_order

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


_OF_PERSON = {"changed_by": "--by", "reason": "--reason"}
_OPTIONS = {**_OF_PERSON, "address": "--street", "address2": "--street2"}
"""Options whose name is not the field's."""
_FIELDS = Group("Single fields; the others stay as they are", sort_key=1)
_Given = Annotated[str | None, Parameter(group=_FIELDS)]


def address(
    order: str,
    file: str | None = None,
    /,
    *,
    by: str = "",
    reason: str | None = None,
    timeout: Wait = 10,
    name: _Given = None,
    company: _Given = None,
    street: _Given = None,
    street2: _Given = None,
    city: _Given = None,
    state: _Given = None,
    zip_code: Annotated[str | None, Parameter(name="--zip", group=_FIELDS)] = None,
    country: _Given = None,
    phone: _Given = None,
) -> int:
    """Change the address of an order whose shipping has not begun.

    Give a file with the whole new address, or single fields. The former address is kept with the order until
    its customer's data is erased. A confirmation that was written already is written again.

    Exit codes: 0, the order has the address; 1, there is no such order, its shipping has begun, it has ended,
    or a worker holds it; 2, the address or an argument is invalid, or the database does not answer.

    Args:
        order: The order's id, such as ORDER-1001.
        file: JSON with the fields of shipping_info; - reads standard input.
        by: Required: who changes it. Stored with the order.
        reason: Why. Stored with the order; no card data.
        timeout: Limits the wait for a worker that holds the order, in seconds.
        street: Street and number (the field `address`).
        street2: The second line (`address2`).
        country: Two letters (ISO 3166).
    """
    settings()
    fields = {"name": name, "company": company, "address": street, "address2": street2, "city": city}
    fields |= {"state": state, "zip": zip_code, "country": country, "phone": phone}
    single = {field: value for field, value in fields.items() if value is not None}
    try:
        given = _new_address(file, single)
        receipt = run_sync(
            lambda: change_address(
                order,
                given,
                changed_by=by,
                reason=reason,
                started_by=user("with order-saga"),
                partly=file is None,
                wait_seconds=timeout,
            )
        )
    except InputError as error:
        return terminal.refused(str(error))
    except AddressInvalid as error:
        options = _OF_PERSON if file else {**{field: f"--{field}" for field in fields}, **_OPTIONS}
        places = [replace(each, place=options.get(each.place, each.place)) for each in error.problems]
        return terminal.refused("\n".join(map(str, places)))
    except ReviewError as error:
        return terminal.refused(str(error), code=1)
    what = "has the new address" if receipt.status == "changed" else "had this address already"
    terminal.write(f"Order {for_terminal(receipt.order_id)} {what}.")
    return 0


def _new_address(file: str | None, single: dict[str, str]) -> Any:
    if file is None:
        if not single:
            raise InputError("give a file with the address, or single fields such as --city")
        return single
    if single:
        raise InputError("give a file, or single fields, not both")
    try:
        (read, *more) = read_json(read_file(file), "address")
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    if more:
        raise InputError(f"{file} has {1 + len(more)} entries: give one address")
    return read.given
