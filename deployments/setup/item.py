"""One object on a server, compared with the required state."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Change(StrEnum):
    """What was done, or would have to be done."""

    UNCHANGED = "unchanged"
    CREATED = "created"
    UPDATED = "updated"
    REMOVED = "removed"
    MISSING = "missing"
    DIFFERS = "differs"
    SURPLUS = "not wanted"
    MISCONFIGURED = "misconfigured"


@dataclass(frozen=True, slots=True)
class Item:
    kind: str
    """Such as `work queue`."""
    name: str
    change: Change
    note: str = ""
    """What differed, or what a person has chosen on the server."""

    @property
    def wrong(self) -> bool:
        """Whether something remains to be done."""
        return self.change in {Change.MISSING, Change.DIFFERS, Change.SURPLUS, Change.MISCONFIGURED}
