"""The tables of orders: the engine's three with the shop's own columns, the earlier tries of orders, and the
progress of the search for lost runs."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import DDL, CheckConstraint, Column, Computed, Index, Integer, SmallInteger, Text, event, text
from sqlmodel import Field, SQLModel

from saga.columns import creation_time, json_column, text_column, time_column
from saga.tables import tables_of
from shop.monitoring.buckets import bucket_sql
from shop.orders.search import CUSTOMER_KEY, EMAIL_KEY
from shop.orders.store import ORDERS
from shop.runtime.tables import covering_index, money_column


class LostStep(SQLModel, table=True):
    """A step that an order has begun, and that was lost when the database was restored to an earlier time;
    see `shop.orders.lost_steps`."""

    __tablename__ = "lost_step"
    order_id: str = Field(sa_column=text_column(primary_key=True))
    step: str = Field(sa_column=text_column(primary_key=True))
    noted_at: datetime = Field(sa_column=creation_time())


CUSTOMER_ORDER, ORDER_STEP, LEASE = tables_of(
    ORDERS,
    SQLModel.metadata,
    instances=(
        text_column("currency", required=True, server_default=text("'USD'")),
        money_column("amount_charged"),
        money_column("amount_refunded"),
        money_column("amount_at_risk"),
        # What others have taken for the order, or will collect; see `shop.payments.elsewhere`.
        money_column("amount_elsewhere"),
        # When the customer's data was erased (`shop.retention.customers`).
        time_column("erased_at"),
        # The bucket of the order's duration; see `shop.monitoring.buckets`.
        Column("cell", SmallInteger, Computed(bucket_sql("submitted_at", "finished_at"), persisted=True)),
        Index(
            "customer_order_attention", "finished_at", postgresql_where=text("outcome = 'needs_attention'")
        ),
        # Lists and searches (`shop.orders.search`). The first grows at its end only; the others have hashes,
        # which bound an entry's size.
        Index("customer_order_submitted", "submitted_at", "number"),
        Index(
            "customer_order_not_completed",
            "outcome",
            "submitted_at",
            postgresql_where=text("outcome IS NOT NULL AND outcome <> 'completed'"),
        ),
        Index("customer_order_customer", text(CUSTOMER_KEY), "submitted_at"),
        Index("customer_order_email", text(EMAIL_KEY), "submitted_at"),
        covering_index(
            "customer_order_finished",
            "finished_at",
            "outcome",
            "currency",
            "amount_charged",
            "amount_refunded",
            "cell",
        ),
        CheckConstraint("amount_refunded <= amount_charged", name="customer_order_refund_within_charge"),
        CheckConstraint(
            "outcome IN ('completed', 'rejected', 'out_of_stock', 'compensated', 'needs_attention')",
            name="customer_order_outcome_known",
        ),
    ),
    journal=(
        # The bucket of the step's duration; see `shop.monitoring.buckets`.
        Column("cell", SmallInteger, Computed(bucket_sql("begun_at", "ended_at"), persisted=True)),
        # For metrics: the error code; or what wrote a confirmation, the template or which model.
        Column(
            "remark",
            Text,
            Computed("left(coalesce(error ->> 'code', result ->> 'generation_model'), 100)", persisted=True),
        ),
        CheckConstraint("status IN ('begun', 'done', 'failed')", name="order_step_status_known"),
        CheckConstraint("undo_status IN ('begun', 'done', 'failed')", name="order_step_undo_status_known"),
        covering_index("order_step_ended", "ended_at", "step", "status", "remark", "cell", "attempts"),
        covering_index(
            "order_step_undone", "undo_ended_at", "step", "undo_status", "undo_begun_at", "undo_attempts"
        ),
        Index(
            "order_step_warned",
            "ended_at",
            postgresql_where=text("(result -> 'validation_warnings') <> '[]'::jsonb"),
        ),
    ),
)

for _table in (CUSTOMER_ORDER, ORDER_STEP):
    # These rows are updated soon after they are inserted. Free space on their page keeps the updates out of
    # the indexes (HOT).
    event.listen(_table, "after_create", DDL("ALTER TABLE %(fullname)s SET (fillfactor = 60)"))  # type: ignore[no-untyped-call]


class LostRunSearch(SQLModel, table=True):
    """The progress of the search for runs that died before they stored their order: one row. See
    `shop.orders.lost_runs`."""

    __tablename__ = "lost_run_search"
    __table_args__ = (CheckConstraint("id = 1", name="lost_run_search_one"),)
    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    since: datetime = Field(sa_column=creation_time())
    searched_until: datetime = Field(sa_column=creation_time())


class OrderTry(SQLModel, table=True):
    """A try of an order that ended uncompleted, and was followed by another. See `shop.orders.tries`."""

    __tablename__ = "order_try"
    __table_args__ = (Index("order_try_finished", "finished_at"),)
    order_id: str = Field(sa_column=text_column(primary_key=True))
    number: int = Field(sa_column=Column(Integer, primary_key=True, autoincrement=False))
    outcome: str = Field(sa_column=text_column(required=True))
    failing_step: str | None = Field(sa_column=text_column())
    failure: dict[str, Any] | None = Field(sa_column=json_column())
    reasons: list[str] = Field(sa_column=json_column(default="[]"))
    undone: list[dict[str, Any]] = Field(sa_column=json_column(default="[]"))
    currency: str = Field(sa_column=text_column(required=True))
    amount_charged: Decimal = Field(sa_column=money_column())
    """By this try alone; so is `amount_refunded`."""
    amount_refunded: Decimal = Field(sa_column=money_column())
    begun_at: datetime = Field(sa_column=time_column(required=True))
    """When it was submitted, or asked for."""
    finished_at: datetime = Field(sa_column=time_column(required=True))
    journal: list[dict[str, Any]] = Field(sa_column=json_column(default="[]"))
    """The rows of `order_step`."""
    retried_at: datetime = Field(sa_column=creation_time())
    """When the next try was asked for."""
    requested_by: str | None = Field(sa_column=text_column())
    """Who asked for the next try, as typed; not verified."""
    started_by: str | None = Field(sa_column=text_column())
    """The user that the system knows."""
    reason: str | None = Field(sa_column=text_column())
