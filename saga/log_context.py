"""The context of log lines: instance, step, run. It is bound once for a batch, and for an instance that
continues alone.

The names of the fields derive from `SagaStore.noun`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from structlog.contextvars import bound_contextvars, get_contextvars

from saga.instance import Instance
from saga.store import SagaStore

Fields = dict[str, Any]
_sources: list[Callable[[], Fields]] = []
_instance: ContextVar[Instance | None] = ContextVar("instance", default=None)


@contextmanager
def about(step: str, instances: Sequence[Instance]) -> Iterator[None]:
    """Binds the step and the instances to the lines of this block and of the tasks that it starts: the id of
    one instance, the number of several."""
    one, several = instances[0], {f"{instances[0].store.noun}s": len(instances)}
    with bound_contextvars(step=step, **(_id_field(one.store, one.id) if len(instances) == 1 else several)):
        yield


@contextmanager
def about_instance(store: SagaStore[Any], instance_id: str) -> Iterator[None]:
    """Binds the instance to the lines of this block and of the tasks that it starts."""
    with bound_contextvars(**_id_field(store, instance_id)):
        yield


def bind_instance(instance: Instance) -> None:
    """Binds the instance to the lines of this asyncio task from now on."""
    _instance.set(instance)


def _id_field(store: SagaStore[Any], instance_id: str) -> Fields:
    return {f"{store.noun}_id": instance_id}


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
    if (instance := _instance.get()) is not None:
        found |= _id_field(instance.store, instance.id)
    return found
