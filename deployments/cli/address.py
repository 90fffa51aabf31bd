"""`order-saga address ID`: changes the address of an order that is not being shipped yet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from deployments import terminal
from deployments.cli.entries import InputError, read_orders
from deployments.who import user
from shop.orders.page.formatting import for_terminal
from shop.review.address import change_address
from shop.review.errors import AddressInvalid, ReviewError
from shop.runtime.sync import run_sync
from shop.settings import settings

_FIELDS = Group("Single fields; the others stay as they are", sort_key=1)
_Given = Annotated[str | None, Parameter(group=_FIELDS)]


def address(
    order: str,
    file: str | None = None,
    /,
    *,
    by: str = "",
    reason: str | None = None,
    timeout: float = 10,
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
        given = _given(file, single)
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
    except (InputError, OSError, UnicodeDecodeError) as error:
        return terminal.refused(str(error))
    except AddressInvalid as error:
        return terminal.refused("\n".join(error.reasons()))
    except ReviewError as error:
        return terminal.refused(str(error), code=1)
    what = "has the new address" if receipt.status == "changed" else "had this address already"
    terminal.write(f"Order {for_terminal(receipt.order_id)} {what}.")
    return 0


def _given(file: str | None, single: dict[str, str]) -> Any:
    if file is None:
        if not single:
            raise InputError("give a file with the address, or single fields such as --city")
        return single
    if single:
        raise InputError("give a file, or single fields, not both")
    text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    (read, *more) = read_orders(text)
    if more:
        raise InputError(f"{file} has {1 + len(more)} entries: give one address")
    return read
