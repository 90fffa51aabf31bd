"""The tables of the installation and of periodic jobs."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, text
from sqlmodel import Field, SQLModel

from saga.columns import creation_time, text_column, time_column


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
