"""The tables of the manual review."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import CheckConstraint, Index, text
from sqlmodel import Field, SQLModel

from saga.columns import (
    counter_column,
    creation_time,
    generated_id,
    json_column,
    text_column,
    time_column,
)
from shop.runtime.tables import money_column


class Attention(SQLModel, table=True):
    """An order under manual review: a compensation failed, and neither a retry nor a person has settled it
    (`resolved_at`)."""

    __tablename__ = "attention"
    __table_args__ = (
        Index("attention_open", "next_retry_at", postgresql_where=text("resolved_at IS NULL")),
        CheckConstraint(
            "resolution IN ('undone', 'refunded_by_hand', 'written_off')", name="attention_resolution_known"
        ),
        CheckConstraint("(resolution IS NULL) = (resolved_at IS NULL)", name="attention_resolved_somehow"),
    )
    order_id: str = Field(sa_column=text_column(primary_key=True))
    since: datetime = Field(sa_column=creation_time())
    step: str = Field(sa_column=text_column(required=True))
    """The step whose compensation failed; the first one that is due."""
    currency: str = Field(sa_column=text_column(required=True))
    amount_at_risk: Decimal = Field(sa_column=money_column())
    """Amount at risk when the order last entered manual review; the current one is the order's."""
    last_error: str = Field(sa_column=text_column(required=True))
    error_code: str = Field(sa_column=text_column(required=True))
    retries: int = Field(sa_column=counter_column())
    """Number of failed retries."""
    next_retry_at: datetime | None = Field(sa_column=time_column())
    """None: a person handles it, and nothing is retried automatically."""
    resolved_at: datetime | None = Field(sa_column=time_column())
    resolution: str | None = Field(sa_column=text_column())
    """`undone`: a retry compensated it."""
    amount_by_hand: Decimal = Field(sa_column=money_column())
    """Amount that a person states to have refunded outside the gateway."""
    amount_written_off: Decimal = Field(sa_column=money_column())


class DeskEntry(SQLModel, table=True):
    """An entry of the record of manual decisions: who did what about an order, when and why. Entries are only
    added."""

    __tablename__ = "desk_entry"
    __table_args__ = (Index("desk_entry_order", "order_id"),)
    id: int = Field(sa_column=generated_id())
    order_id: str = Field(sa_column=text_column(required=True))
    at: datetime = Field(sa_column=creation_time())
    action: str = Field(sa_column=text_column(required=True))
    """`cancel`, `change_address`, `shop_update`, `accept_discrepancies`, or a
    `shop.review.resolution.Resolution`."""
    by: str = Field(sa_column=text_column(required=True))
    """The name that a person typed; not verified."""
    started_by: str | None = Field(sa_column=text_column())
    """The user that the system knows: the Prefect run and its creator according to Prefect, or the user of
    the machine."""
    reason: str | None = Field(sa_column=text_column())
    reference: str | None = Field(sa_column=text_column())
    amount: Decimal = Field(sa_column=money_column())
    currency: str | None = Field(sa_column=text_column())
    old_address: dict[str, Any] | None = Field(sa_column=json_column())
    """The shipping address that `change_address` replaced; null once the customer's data is erased."""


class ShopMessage(SQLModel, table=True):
    """What is remembered of the messages that a shop has sent about an order: they come in any sequence."""

    __tablename__ = "shop_message"
    order_id: str = Field(sa_column=text_column(primary_key=True))
    """Of an order that is stored, or of one that was cancelled or deleted before."""
    newest_at: datetime | None = Field(sa_column=time_column())
    """When the shop last changed the order, as the newest message says; or when a deletion came."""
    closed: str | None = Field(sa_column=text_column())
    """Why an order that is not stored is not taken from older messages."""
