"""What was found about one part of the outside world."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    REAL = "real"
    """Chosen by settings, contacted, and it answered."""
    EMBEDDED = "embedded"
    """Our own, for development: nothing was configured."""
    OFF = "off"
    """Does without: nothing was configured, and nothing is missing."""
    WRONG = "misconfigured"


@dataclass(frozen=True, slots=True)
class Finding:
    part: str
    state: State
    what: str
    """In words: what it is, or what is wrong. Never a secret."""
    mend: str = ""
    """What to do, if something is wrong."""

    @property
    def wrong(self) -> bool:
        return self.state is State.WRONG
