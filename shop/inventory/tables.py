"""The tables of the stock."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, text
from sqlmodel import Field, SQLModel

from saga.columns import creation_time, json_column, text_column, time_column


class Product(SQLModel, table=True):
    """Stock of one product, in pieces. `received` is the sum of all deliveries: `on_hand` + shipped -
    returned. Deliveries (`shop.inventory.deliveries`) add to both.
    """

    __tablename__ = "product"
    __table_args__ = (
        CheckConstraint("on_hand >= 0", name="product_on_hand_not_negative"),
        CheckConstraint("reserved >= 0 AND reserved <= on_hand", name="product_never_oversold"),
    )
    id: str = Field(sa_column=text_column(primary_key=True))
    name: str = Field(sa_column=text_column(required=True))
    received: int = Field(sa_column=Column(BigInteger, nullable=False))
    on_hand: int = Field(sa_column=Column(BigInteger, nullable=False))
    reserved: int = Field(sa_column=Column(BigInteger, nullable=False, server_default=text("0")))


class Delivery(SQLModel, table=True):
    """Goods that were received once, under the reference that the caller gave."""

    __tablename__ = "delivery"
    reference: str = Field(sa_column=text_column(primary_key=True))
    items: dict[str, int] = Field(sa_column=json_column(required=True))
    """Pieces per product."""
    received_at: datetime = Field(sa_column=creation_time())
    received_by: str | None = Field(sa_column=text_column())
    """Who received them, as typed."""
    started_by: str | None = Field(sa_column=text_column())
    """What the system knows of who recorded them."""
    note: str | None = Field(sa_column=text_column())


class Reservation(SQLModel, table=True):
    """An order's reservation of stock."""

    __tablename__ = "reservation"
    __table_args__ = (
        Index("reservation_held", "expires_at", postgresql_where=text("state = 'held'")),
        CheckConstraint(
            "state IN ('held', 'released', 'shipped', 'returned', 'expired')", name="reservation_state_known"
        ),
    )
    order_id: str = Field(sa_column=text_column(primary_key=True))
    id: str = Field(sa_column=text_column(required=True))
    state: str = Field(sa_column=text_column(required=True))
    items: dict[str, int] = Field(sa_column=json_column(required=True))
    """Pieces per product."""
    created_at: datetime = Field(sa_column=creation_time())
    expires_at: datetime = Field(sa_column=time_column(required=True))
    ended_at: datetime | None = Field(sa_column=time_column())
    at_service: bool = Field(sa_column_kwargs={"server_default": text("false"), "nullable": False})
    """Reserved through the inventory service, which also expires it: its order has no lease in this
    database."""
