"""The tables of payment events and disputes."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import CheckConstraint, Index, text
from sqlmodel import Field, SQLModel

from saga.columns import counter_column, creation_time, json_column, text_column, time_column
from shop.runtime.tables import money_column


class PaymentEvent(SQLModel, table=True):
    """A webhook event of the gateway: a hint to look something up there. Deleted some time after it was
    handled."""

    __tablename__ = "payment_event"
    __table_args__ = (
        Index("payment_event_waiting", "next_attempt_at", postgresql_where=text("handled_at IS NULL")),
        Index("payment_event_handled", "handled_at", postgresql_where=text("handled_at IS NOT NULL")),
        CheckConstraint("(done IS NULL) = (handled_at IS NULL)", name="payment_event_handled_somehow"),
    )
    id: str = Field(sa_column=text_column(primary_key=True))
    """The gateway's id, which identifies a redelivery of the same event."""
    type: str = Field(sa_column=text_column(required=True))
    happened_at: datetime = Field(sa_column=time_column(required=True))
    """According to the gateway's clock."""
    order_id: str | None = Field(sa_column=text_column())
    """According to the event; after the look-up, according to the gateway."""
    payment_id: str | None = Field(sa_column=text_column())
    dispute: dict[str, Any] | None = Field(sa_column=json_column())
    """The event's data about a dispute. Amounts of payments are not stored but looked up."""
    received_at: datetime = Field(sa_column=creation_time())
    next_attempt_at: datetime = Field(sa_column=creation_time())
    attempts: int = Field(sa_column=counter_column())
    error: str | None = Field(sa_column=text_column())
    """Why the last attempt to handle it failed."""
    handled_at: datetime | None = Field(sa_column=time_column())
    done: str | None = Field(sa_column=text_column())
    """A text about what was found and done."""


class AdoptedPayment(SQLModel, table=True):
    """A payment at the gateway that was made elsewhere, and that an order names as its own."""

    __tablename__ = "adopted_payment"
    __table_args__ = (Index("adopted_payment_order", "order_id"),)
    payment_id: str = Field(sa_column=text_column(primary_key=True))
    order_id: str = Field(sa_column=text_column(required=True))
    adopted_at: datetime = Field(sa_column=creation_time())


class ReceivedPayment(SQLModel, table=True):
    """Money that came for an order by transfer or on delivery."""

    __tablename__ = "received_payment"
    order_id: str = Field(sa_column=text_column(primary_key=True))
    reference: str = Field(sa_column=text_column(primary_key=True))
    """The number of the transfer or of the carrier's settlement: identifies it."""
    amount: Decimal = Field(sa_column=money_column())
    currency: str = Field(sa_column=text_column(required=True))
    recorded_by: str = Field(sa_column=text_column(required=True))
    recorded_at: datetime = Field(sa_column=creation_time())


class Dispute(SQLModel, table=True):
    """A charge that the customer's bank disputes: under manual review until it is closed."""

    __tablename__ = "dispute"
    __table_args__ = (Index("dispute_open", "opened_at", postgresql_where=text("closed_at IS NULL")),)
    id: str = Field(sa_column=text_column(primary_key=True))
    order_id: str | None = Field(sa_column=text_column())
    payment_id: str | None = Field(sa_column=text_column())
    amount: Decimal = Field(sa_column=money_column())
    currency: str = Field(sa_column=text_column(required=True))
    reason: str = Field(sa_column=text_column(required=True))
    status: str = Field(sa_column=text_column(required=True))
    """The gateway's own name of the status."""
    evidence_due_by: datetime | None = Field(sa_column=time_column())
    opened_at: datetime = Field(sa_column=time_column(required=True))
    as_of: datetime = Field(sa_column=time_column(required=True))
    """The time of this data: older data does not replace it."""
    closed_at: datetime | None = Field(sa_column=time_column())
