"""The result of checking one part."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    REAL = "real"
    """Selected by settings, and it answered."""
    EMBEDDED = "embedded"
    """Not configured: the development version of this project."""
    OFF = "off"
    """Not configured, and not needed."""
    WRONG = "misconfigured"


@dataclass(frozen=True, slots=True)
class Finding:
    part: str
    state: State
    what: str
    """What it is, or what is wrong. Never a secret."""
    remedy: str = ""
    """What to do if something is wrong."""

    @property
    def wrong(self) -> bool:
        return self.state is State.WRONG
