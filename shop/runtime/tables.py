"""The tables of the installation and of periodic jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Column, Index, Numeric, text
from sqlmodel import Field, SQLModel

from saga.columns import creation_time, text_column, time_column


def money_column(name: str | None = None) -> Column[Any]:
    """Creates a column for an amount of money; its default is 0."""
    return Column(name, Numeric(20, 6), nullable=False, server_default=text("0"))


def covering_index(name: str, time: str, *include: str) -> Index:
    """Creates an index on the rows whose `time` is set, with which metrics are read without the table."""
    return Index(name, time, postgresql_include=list(include), postgresql_where=text(f"{time} IS NOT NULL"))


class Installation(SQLModel, table=True):
    """The installation's identity in shared accounts: one row; see `shop.runtime.installation`."""

    __tablename__ = "installation"
    __table_args__ = (CheckConstraint("singleton", name="installation_is_one"),)
    singleton: bool = Field(default=True, primary_key=True, sa_column_kwargs={"server_default": text("true")})
    id: str = Field(sa_column=text_column(required=True))
    made_at: datetime = Field(sa_column=creation_time())


class JobTurn(SQLModel, table=True):
    """When a periodic job is due next; see `shop.runtime.turns`."""

    __tablename__ = "job_turn"
    job: str = Field(sa_column=text_column(primary_key=True))
    next_at: datetime = Field(sa_column=time_column(required=True))
