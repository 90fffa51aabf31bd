"""Columns of the kinds that the engine's tables have, for its own tables and for those of an owner. A column
without a name gets the name of the field to which it belongs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, DateTime, Identity, Integer, Text, text
from sqlalchemy.dialects.postgresql import JSONB


def text_column(name: str | None = None, *, required: bool = False, **options: Any) -> Column[Any]:
    """Text; `options` are SQLAlchemy's."""
    return Column(name, Text, nullable=not (required or options.get("primary_key")), **options)


def time_column(name: str | None = None, *, required: bool = False) -> Column[Any]:
    """A time with its time zone."""
    return Column(name, DateTime(timezone=True), nullable=not required)


def creation_time(name: str | None = None) -> Column[Any]:
    """The time of the transaction that inserts the row."""
    return Column(name, DateTime(timezone=True), nullable=False, server_default=text("now()"))


def json_column(
    name: str | None = None, *, required: bool = False, default: str | None = None
) -> Column[Any]:
    """JSON; a column with a default is never null."""
    return Column(
        name,
        JSONB,
        nullable=not required and default is None,
        server_default=text(f"'{default}'") if default else None,
    )


def counter_column(name: str | None = None, *, start: int = 0) -> Column[Any]:
    """A number that counts from `start`."""
    return Column(name, Integer, nullable=False, server_default=text(str(start)))


def flag_column(name: str | None = None) -> Column[Any]:
    """A truth value, at first false."""
    return Column(name, Boolean, nullable=False, server_default=text("false"))


def generated_id() -> Column[Any]:
    """A primary key that the database generates."""
    return Column(BigInteger, Identity(always=True), primary_key=True)
