"""Where the instances of one saga are stored: the names of its tables, how a payload is parsed, and what its
owner adds (hooks)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Generic, TypeVar

from sqlalchemy import TextClause, text

from saga.hooks import Hooks

P = TypeVar("P")
_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,49}")


@dataclass(frozen=True, eq=False)
class SagaStore(Generic[P]):
    """Three tables: the instances, their journal, and the leases of the workers that hold them. Raises
    ValueError if a name is not a plain PostgreSQL identifier of at most 50 characters."""

    instances: str
    """The table of instances."""
    journal: str
    """The table with one row for each step of each instance that was begun."""
    leases: str
    """The table of leases. No two sagas may share one."""
    parse: Callable[[Mapping[str, Any]], P]
    """Makes the payload of the stored content."""
    key: str = "instance_id"
    """The journal's column that holds the instance's id."""
    noun: str = "instance"
    """What people call an instance: in artifacts, in the fields of log lines (`<noun>_id`, and `<noun>s` for
    the number of several), and as the failing step of one that was cancelled (`cancel_<noun>`)."""
    hooks: Hooks[P] = field(default_factory=Hooks)

    def __post_init__(self) -> None:
        for name in (self.instances, self.journal, self.leases, self.key, self.noun):
            if not _IDENTIFIER.fullmatch(name):
                raise ValueError(
                    f"{name!r} is not a valid name of a table, a column or an instance: "
                    "use up to 50 lower case letters, digits and _"
                )


def sql(template: str) -> Callable[[SagaStore[Any]], TextClause]:
    """Returns a function that makes the statement for a store's tables, once for each store.

    In the template `{instances}`, `{journal}`, `{leases}` and `{key}` stand for the store's names; a brace of
    SQL is doubled.
    """

    @cache
    def statement(store: SagaStore[Any]) -> TextClause:
        return text(
            template.format(
                instances=store.instances, journal=store.journal, leases=store.leases, key=store.key
            )
        )

    return statement
