"""The table of open discrepancies."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, text
from sqlmodel import Field, SQLModel

from saga.columns import creation_time, text_column, time_column


class OpenDiscrepancy(SQLModel, table=True):
    """A discrepancy between our records and the gateway's, until it no longer exists; see
    `shop.reconciliation.outstanding`."""

    __tablename__ = "discrepancy"
    __table_args__ = (Index("discrepancy_open", "order_id", postgresql_where=text("accepted_at IS NULL")),)
    order_id: str = Field(sa_column=text_column(primary_key=True))
    """Our order's id, or the gateway's reference to an order."""
    digest: str = Field(sa_column=text_column(primary_key=True))
    """Digest of the kind and of both sides' values."""
    kind: str = Field(sa_column=text_column(required=True))
    since: datetime = Field(sa_column=creation_time())
    accepted_at: datetime | None = Field(sa_column=time_column())
