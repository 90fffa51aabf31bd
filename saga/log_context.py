"""The context of log lines: instance, step, run. It is bound once for a batch, and for an instance that
continues alone.

The field of an instance's id is `order_id`, which log consumers know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from structlog.contextvars import bound_contextvars, get_contextvars

from saga.instance import Instance

Fields = dict[str, Any]
_sources: list[Callable[[], Fields]] = []
_instance: ContextVar[str | None] = ContextVar("instance", default=None)


@contextmanager
def about(step: str, instances: Sequence[Instance]) -> Iterator[None]:
    """Binds the step and the instances to the lines of this block and of the tasks that it starts: `order_id`
    for one instance, `orders` for the number of several."""
    which: Fields = {"order_id": instances[0].id} if len(instances) == 1 else {"orders": len(instances)}
    with bound_contextvars(step=step, **which):
        yield


@contextmanager
def about_instance(instance_id: str) -> Iterator[None]:
    """Binds the instance to the lines of this block and of the tasks that it starts."""
    with bound_contextvars(order_id=instance_id):
        yield


def bind_instance(instance_id: str) -> None:
    """Binds the instance to the lines of this asyncio task from now on."""
    _instance.set(instance_id)


def add_source(source: Callable[[], Fields]) -> None:
    """Adds a function that returns fields for each line,
    such as the run's; it must be fast and never raise."""
    if source not in _sources:
        _sources.append(source)


def fields() -> Fields:
    """Returns the fields of a line that is logged now."""
    found: Fields = {}
    for source in _sources:
        found |= source()
    found |= get_contextvars()
    if (instance_id := _instance.get()) is not None:
        found["order_id"] = instance_id
    return found
