"""The stored versions of the program that asks the language model, and the one in use. They are in the
database, so that every worker uses the same one. Needs nothing of the extra `llm`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import text

from saga.database import sync_engine

PLAIN = "plain"
"""The version of the program that was not optimised."""
_ADD = text(
    "INSERT INTO confirmation_program (version, content, made_by, remark) "
    "VALUES (:version, :content, :by, :remark) ON CONFLICT DO NOTHING"
)
_USE = text("INSERT INTO confirmation_program_use (version, chosen_by) VALUES (:version, :by)")
_IN_USE = text("SELECT version FROM confirmation_program_use ORDER BY id DESC LIMIT 1")
_READ = text("SELECT content FROM confirmation_program WHERE version = :version")
_ALL = text(
    """
    SELECT p.version, p.made_at, p.made_by, p.remark, u.since, u.chosen_by
    FROM confirmation_program p LEFT JOIN LATERAL (
        SELECT since, chosen_by FROM confirmation_program_use u
        WHERE u.version = p.version ORDER BY u.id DESC LIMIT 1) u ON true
    ORDER BY p.made_at DESC, p.version
    """
)


class UnknownVersion(Exception):
    """There is no such version."""


@dataclass(frozen=True, slots=True)
class StoredProgram:
    version: str
    made_at: datetime
    made_by: str
    remark: str
    """How it was made, and its score."""
    since: datetime | None
    """When it was last put in use."""
    chosen_by: str | None


# All functions take the database's address, and block: not for an event loop.


def add_and_use(url: str, content: str, *, by: str, remark: str) -> str:
    """Stores the program and puts it in use. Returns its version."""
    version = hashlib.sha256(content.encode()).hexdigest()[:12]
    with sync_engine(url).connect() as connection, connection.begin():
        connection.execute(_ADD, {"version": version, "content": content, "by": by, "remark": remark})
        connection.execute(_USE, {"version": version, "by": by})
    return version


def use(url: str, version: str, *, by: str) -> bool:
    """Puts a stored version, or the plain program, in use. Returns whether another one was. Raises
    `UnknownVersion`."""
    with sync_engine(url).connect() as connection, connection.begin():
        if version != PLAIN and connection.execute(_READ, {"version": version}).one_or_none() is None:
            raise UnknownVersion
        if (connection.execute(_IN_USE).scalar() or PLAIN) == version:
            return False
        connection.execute(_USE, {"version": version, "by": by})
    return True


def version_in_use(url: str) -> str:
    """Returns the version in use; at first, the plain program's."""
    with sync_engine(url).connect() as connection:
        return str(connection.execute(_IN_USE).scalar() or PLAIN)


def read_content(url: str, version: str) -> str:
    """Returns the JSON of a stored version. Raises `UnknownVersion`."""
    with sync_engine(url).connect() as connection:
        row = connection.execute(_READ, {"version": version}).one_or_none()
    if row is None:
        raise UnknownVersion
    return str(row.content)


def stored_programs(url: str) -> list[StoredProgram]:
    """Returns all stored versions, the newest first."""
    with sync_engine(url).connect() as connection:
        return [StoredProgram(**row) for row in connection.execute(_ALL).mappings()]


class Optimizer(StrEnum):
    """One of DSPy's optimisers. `auto` is GEPA if `DSPY_REFLECTION_MODEL` is set, else BootstrapFewShot."""

    AUTO = "auto"
    BOOTSTRAP = "bootstrap"
    MIPRO = "mipro"
    GEPA = "gepa"
