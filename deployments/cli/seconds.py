"""Options in seconds, with their limits."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter


def _wait(_: object, given: float | None) -> None:
    if given is not None and not given >= 0:
        raise ValueError("give 0 or more seconds")


def _pause(_: object, given: float) -> None:
    if not given >= SHORTEST_PAUSE:
        raise ValueError(f"give at least {SHORTEST_PAUSE} s")


SHORTEST_PAUSE = 0.2
"""Limits how often something is repeated, in seconds."""
Wait = Annotated[float, Parameter(validator=_wait)]
"""How long to wait; 0 does not wait."""
Pause = Annotated[float, Parameter(validator=_pause)]
"""Seconds between repetitions."""
