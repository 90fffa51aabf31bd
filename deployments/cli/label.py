"""`order-saga label`: writes labels as files, or to a label printer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from deployments import terminal
from saga.clock import database_time
from shop.monitoring.window import Window, parse
from shop.orders.names import file_stems
from shop.orders.page.formatting import for_terminal
from shop.runtime.files import write_atomic
from shop.runtime.sync import run_sync
from shop.runtime.times import shop_zone
from shop.shipping.carriers import close_carriers
from shop.shipping.labels.content import LabelFormat
from shop.shipping.labels.stored import Label, NoLabel, find_label, shipped

_STANDARD_OUTPUT = Path("-")


def label(
    *orders: str,
    shipped_within: str | None = None,
    format: LabelFormat = LabelFormat.PDF,  # noqa: A002  (the option's name)
    dpi: Literal[203, 300] = 203,
    output: Annotated[Path, Parameter(allow_leading_hyphen=True)] = Path(),
) -> int:
    """Write the labels of orders, 4 x 6 inches, as a PDF or as ZPL for label printers.

    Exit codes: 0; 1, an order has no label; 2, the window or a setting is invalid, the database does not
    answer, or a file cannot be written.

    Args:
        orders: The orders' ids, such as ORDER-1001.
        shipped_within: Also the labels of all parcels that left in this window: 10m, 1h, 24h, 7d, all, or
            FROM/TO in ISO 8601.
        format: The format.
        dpi: The label printer's resolution, for ZPL.
        output: The folder of the files, one for each order; - writes to standard output instead.
    """
    try:
        window = parse(shipped_within, shop_zone()) if shipped_within else None
    except ValueError as error:
        return terminal.refused(str(error))
    if not orders and window is None:
        return terminal.refused("Name orders, or use --shipped-within 24h.")
    found = run_sync(lambda: _find(orders, window))
    missing = 0
    try:
        for order, one in found.items():
            try:
                if isinstance(one, NoLabel):
                    raise one
                _write(one.render(format, dpi), order, format, output)
            except NoLabel as error:
                missing += 1
                terminal.write(f"{for_terminal(order)}: {error}", sys.stderr)
    except OSError as error:
        return terminal.refused(f"The label cannot be written: {error}")
    return int(missing > 0)


async def _find(orders: Sequence[str], window: Window | None) -> dict[str, Label | NoLabel]:
    ids = list(orders)
    if window is not None:
        bounds = window.at(await database_time()).bounds
        ids += await shipped(bounds["since"], bounds["until"])
    found: dict[str, Label | NoLabel] = {}
    try:
        for order in dict.fromkeys(ids):
            try:
                found[order] = await find_label(order)
            except NoLabel as error:
                found[order] = error
    finally:
        await close_carriers()
    return found


def _write(made: bytes, order: str, label_format: LabelFormat, output: Path) -> None:
    if output == _STANDARD_OUTPUT:
        sys.stdout.buffer.write(made)
        sys.stdout.buffer.flush()
        return
    path = output / f"{file_stems(order)[0]}.{label_format}"
    write_atomic(path, made)
    terminal.write(str(path))
