"""The tables of messages: the outbox, and the embedded CRM."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Index, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from saga.columns import counter_column, creation_time, generated_id, json_column, text_column, time_column
from shop.runtime.tables import covering_index


class OutboxMessage(SQLModel, table=True):
    """A message to send, written in the transaction that causes it; sent later, with retries until it
    succeeds."""

    __tablename__ = "outbox"
    __table_args__ = (
        UniqueConstraint("order_id", "kind", "try_number", name="outbox_once"),
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
    """How the last attempt failed; never the recipient's own text, which may contain a customer's address."""
    refused_at: datetime | None = Field(sa_column=time_column())
    """When the recipient refused it permanently: it is not retried unless a person decides so."""
    try_number: int = Field(sa_column=counter_column(start=1))
    """The order's try that caused it."""
    claimed_until: datetime | None = Field(sa_column=time_column())
    """Until when a batch may be sending it. None: none is, as far as its last result says."""


class CustomerInteraction(SQLModel, table=True):
    """An entry of the embedded CRM: a message that was sent to a customer."""

    __tablename__ = "customer_interaction"
    __table_args__ = (
        UniqueConstraint("order_id", "kind", "try_number", name="customer_interaction_once"),
        Index("customer_interaction_customer", "customer_id"),
    )
    id: int = Field(sa_column=generated_id())
    customer_id: str | None = Field(sa_column=text_column())
    """None for a guest."""
    order_id: str = Field(sa_column=text_column(required=True))
    kind: str = Field(sa_column=text_column(required=True))
    details: dict[str, Any] = Field(sa_column=json_column(required=True))
    at: datetime = Field(sa_column=creation_time())
    try_number: int = Field(sa_column=counter_column(start=1))
