"""Columns and indexes that the tables of several packages have."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index, Numeric, text


def money_column(name: str | None = None) -> Column[Any]:
    """An amount of money, at first nothing."""
    return Column(name, Numeric(20, 6), nullable=False, server_default=text("0"))


def covering_index(name: str, time: str, *include: str) -> Index:
    """An index from which metrics are read without the table, by a time that is not null."""
    return Index(name, time, postgresql_include=list(include), postgresql_where=text(f"{time} IS NOT NULL"))
