"""What each log line says of where it comes from: order, step, run. Bound once for a batch, and for an order where it goes on alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from structlog.contextvars import bind_contextvars, bound_contextvars, get_contextvars

from shop.under_way import OrderUnderWay

Fields = dict[str, Any]
_sources: list[Callable[[], Fields]] = []


@contextmanager
def about(step: str, orders: Sequence[OrderUnderWay]) -> Iterator[None]:
    """Lines of this block, and of what it starts, are about this step of these orders: `order_id` for one, `orders` for how many."""
    which: Fields = {"order_id": orders[0].id} if len(orders) == 1 else {"orders": len(orders)}
    with bound_contextvars(step=step, **which):
        yield


@contextmanager
def about_one(order_id: str) -> Iterator[None]:
    """Lines of this block, and of what it starts, are about this order."""
    with bound_contextvars(order_id=order_id):
        yield


def about_order(order_id: str) -> None:
    """From here on this asyncio task is about this order."""
    bind_contextvars(order_id=order_id)


def add_source(source: Callable[[], Fields]) -> None:
    """Something that is asked for fields at each line, such as who runs this; it must be quick, and never raise."""
    if source not in _sources:
        _sources.append(source)


def fields() -> Fields:
    """Those of a line that is logged now."""
    found: Fields = {}
    for source in _sources:
        found |= source()
    return found | get_contextvars()
