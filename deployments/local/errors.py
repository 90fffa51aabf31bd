"""What can go wrong while the embedded world starts, told to the person who started it."""

from __future__ import annotations


class StackError(Exception):
    """Something could not be started: says what, why, and what to do about it."""


class AlreadyRunning(StackError):
    """Another supervisor holds this data folder."""


class Interrupted(BaseException):
    """This process was told to end by a signal, as Ctrl-C does; not an error."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"told to stop by {name}")
