"""`order-saga show`: draws the saga, or the history of one order, as Mermaid or for the terminal."""

from __future__ import annotations

import sys

from deployments import terminal
from shop.orders.page.boxes import order_boxes, order_facts
from shop.orders.page.diagram import order_diagram
from shop.orders.page.formatting import for_terminal
from shop.orders.page.story import read_customer_lines_sync, read_story_sync
from shop.settings import settings
from shop.text.sanitize import tame


def show(
    order: str | None = None,
    /,
    *,
    ascii: bool = False,  # noqa: A002  (the option's name)
    mermaid: bool = False,
) -> int:
    """Draw the saga, or the history of one order: steps, compensations, reasons, money, decisions of people.

    On a terminal it draws boxes, elsewhere Mermaid. Below the boxes it says what was ordered, how it is paid,
    and who the customer is.

    Exit codes: 0; 1, there is no such order; 2, the settings are wrong, or the database does not answer.

    Args:
        order: The order's id, such as ORDER-1001. Without one, the saga itself is drawn.
        ascii: Draw boxes, also in a file.
        mermaid: Draw Mermaid, also on a terminal.
    """
    settings()
    boxes = ascii or (sys.stdout.isatty() and not mermaid)
    from deployments.diagrams.documents import DIAGRAMS
    from flows.order_saga import ORDER_SAGA

    if order is None:
        sys.stdout.write(DIAGRAMS["workflow-text" if boxes else "workflow"]())
        return 0
    if (story := read_story_sync(order)) is None:
        return terminal.refused(f"There is no order {for_terminal(order)}. Ids are case-sensitive.", code=1)
    if not boxes:
        sys.stdout.write(tame(order_diagram(story, ORDER_SAGA)))
        return 0
    of_customer = "".join(f"{for_terminal(line, 1_000)}\n" for line in read_customer_lines_sync(order))
    sys.stdout.write(tame(order_boxes(story, ORDER_SAGA) + order_facts(story) + of_customer))
    return 0
