"""The tables of messages: the outbox, and the embedded CRM."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from saga.columns import counter_column, creation_time, generated_id, json_column, text_column, time_column
from shop.runtime.columns import covering_index


class OutboxMessage(SQLModel, table=True):
    """Something to be sent, written in the transaction that made it due; sent later, until it is."""

    __tablename__ = "outbox"
    __table_args__ = (
        UniqueConstraint("order_id", "kind", name="outbox_once"),
        Index(
            "outbox_waiting",
            "next_attempt_at",
            postgresql_where=text("sent_at IS NULL AND refused_at IS NULL"),
        ),
        Index(
            "outbox_undelivered", "created_at", postgresql_where=text("sent_at IS NULL AND error IS NOT NULL")
        ),
        covering_index("outbox_sent", "sent_at", "kind", "attempts"),
    )
    id: int = Field(sa_column=generated_id())
    order_id: str = Field(sa_column=text_column(required=True))
    kind: str = Field(sa_column=text_column(required=True))
    payload: dict[str, Any] = Field(sa_column=json_column(required=True))
    created_at: datetime = Field(sa_column=creation_time())
    next_attempt_at: datetime = Field(sa_column=creation_time())
    attempts: int = Field(sa_column=counter_column())
    sent_at: datetime | None = Field(sa_column=time_column())
    error: str | None = Field(sa_column=text_column())
    """How the last attempt failed; never what the other side wrote, which may hold a customer's address."""
    refused_at: datetime | None = Field(sa_column=time_column())
    """The other side will not have it: it is not tried again unless a person says so."""


class CustomerInteraction(SQLModel, table=True):
    """The embedded CRM: what a customer has heard from us."""

    __tablename__ = "customer_interaction"
    __table_args__ = (
        UniqueConstraint("order_id", "kind", name="customer_interaction_once"),
        Index("customer_interaction_customer", "customer_id"),
    )
    id: int = Field(sa_column=generated_id())
    customer_id: str = Field(sa_column=text_column(required=True))
    order_id: str = Field(sa_column=text_column(required=True))
    kind: str = Field(sa_column=text_column(required=True))
    details: dict[str, Any] = Field(sa_column=json_column(required=True))
    at: datetime = Field(sa_column=creation_time())
