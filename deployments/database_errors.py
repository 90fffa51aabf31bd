"""What callers see of a database that does not answer: the driver's own words, without the password."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import psycopg
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from saga.configuration import config
from saga.database import is_database_error, is_schema_mismatch

P = ParamSpec("P")
T = TypeVar("T")
_SHORTEST_SECRET = 4
"""Shorter passwords are not masked: they occur in every text."""


class DatabaseUnavailable(OperationalError):
    """The shop's database does not answer or is read-only. The text has the driver's reason, and no link."""

    def __str__(self) -> str:
        return described(self)


def described(error: BaseException) -> str:
    """Returns a line for people about a database error."""
    return (
        f"The database does not answer or is read-only: {reason(error)}. "
        "Start `make run`, or check DATABASE_URL."
    )


def reason(error: BaseException) -> str:
    """Returns the first line of the driver's message. Errors that may repeat values of a row, and others than
    the driver's: only the error's name."""
    cause = getattr(error, "orig", None) or error
    name = type(cause).__name__
    if not isinstance(cause, psycopg.Error) or not (is_database_error(cause) or is_schema_mismatch(cause)):
        return name
    (line, *_) = [*filter(None, map(str.strip, str(cause).splitlines())), name]
    line = " ".join(line.split()).removeprefix("connection failed: ").rstrip(".")
    for secret in _secrets():
        line = line.replace(secret, "***")
    return line


def _secrets() -> list[str]:
    try:
        password = make_url(config().database_url).password
    except ArgumentError:
        return []
    return [str(password)] if password and len(str(password)) >= _SHORTEST_SECRET else []


def clear_database_errors(function: Callable[P, T]) -> Callable[P, T]:
    """Makes the function raise `DatabaseUnavailable` where it would raise the driver's or SQLAlchemy's error
    of a database that does not answer."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (SQLAlchemyError, psycopg.Error) as error:
            if isinstance(error, DatabaseUnavailable) or not is_database_error(error):
                raise
            cause = getattr(error, "orig", None) or error
            raise DatabaseUnavailable(None, None, cause) from error

    return called
