"""Columns and indexes for the tables of several packages."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index, Numeric, text


def money_column(name: str | None = None) -> Column[Any]:
    """Creates a column for an amount of money; its default is 0."""
    return Column(name, Numeric(20, 6), nullable=False, server_default=text("0"))


def covering_index(name: str, time: str, *include: str) -> Index:
    """Creates an index on the rows whose `time` is set, with which metrics are read without the table."""
    return Index(name, time, postgresql_include=list(include), postgresql_where=text(f"{time} IS NOT NULL"))
