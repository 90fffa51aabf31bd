"""Errors for the person who starts the system."""

from __future__ import annotations


class StackError(Exception):
    """Something could not be started: the message says what, why, and what to do."""


class AlreadyRunning(StackError):
    """Another supervisor holds this data folder."""


class Interrupted(BaseException):
    """A signal terminates this process, like Ctrl-C; not an error."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"stopped by {name}")
