"""One thing on a Prefect server, and how it compares with what it should be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Change(StrEnum):
    """What was done, or what would have to be done."""

    UNCHANGED = "unchanged"
    CREATED = "created"
    UPDATED = "updated"
    REMOVED = "removed"
    MISSING = "missing"
    DIFFERS = "differs"
    SURPLUS = "not wanted"


@dataclass(frozen=True, slots=True)
class Item:
    kind: str
    """Such as `work queue`."""
    name: str
    change: Change
    note: str = ""
    """What differed, or what a person has chosen there."""

    @property
    def wrong(self) -> bool:
        """Whether something is left to do."""
        return self.change in {Change.MISSING, Change.DIFFERS, Change.SURPLUS}
