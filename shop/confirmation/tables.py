"""The tables of the optimised programs that ask the language model."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field, SQLModel

from saga.columns import creation_time, generated_id, text_column


class ConfirmationProgram(SQLModel, table=True):
    """A version of the program. It never changes."""

    __tablename__ = "confirmation_program"
    version: str = Field(sa_column=text_column(primary_key=True))
    """The first characters of the content's SHA-256."""
    content: str = Field(sa_column=text_column(required=True))
    """The JSON that DSPy saves."""
    made_at: datetime = Field(sa_column=creation_time())
    made_by: str = Field(sa_column=text_column(required=True))
    remark: str = Field(sa_column=text_column(required=True))
    """How it was made, and its score."""


class ConfirmationProgramUse(SQLModel, table=True):
    """Which version is in use since when: the last row is the one in use."""

    __tablename__ = "confirmation_program_use"
    id: int = Field(sa_column=generated_id())
    version: str = Field(sa_column=text_column(required=True))
    """A version of `confirmation_program`, or `plain`."""
    since: datetime = Field(sa_column=creation_time())
    chosen_by: str = Field(sa_column=text_column(required=True))
