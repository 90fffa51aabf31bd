"""The table of shipments."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Column, Identity
from sqlmodel import Field, SQLModel

from saga.columns import creation_time, json_column, text_column, time_column


class Shipment(SQLModel, table=True):
    """A parcel, at most one per order."""

    __tablename__ = "shipment"
    order_id: str = Field(sa_column=text_column(primary_key=True))
    serial: int = Field(sa_column=Column(BigInteger, Identity(), nullable=False))
    """Part of tracking numbers."""
    tracking_number: str = Field(sa_column=text_column(required=True, unique=True))
    carrier: str = Field(sa_column=text_column(required=True))
    service: str = Field(sa_column=text_column(required=True))
    sender: list[str] | None = Field(sa_column=json_column())
    """The lines of the sender's address on the label. None: shipped by an earlier version."""
    items: dict[str, int] = Field(sa_column=json_column(required=True))
    created_at: datetime = Field(sa_column=creation_time())
    returned_at: datetime | None = Field(sa_column=time_column())
    """When its pieces were put back into stock."""
