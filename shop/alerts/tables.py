"""The tables of alerts."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, SmallInteger, text
from sqlmodel import Field, SQLModel

from saga.columns import counter_column, creation_time, generated_id, json_column, text_column, time_column


class Alert(SQLModel, table=True):
    """An alert: a condition that needs a person, from when it was raised until it cleared. A recurrence is
    another alert."""

    __tablename__ = "alert"
    __table_args__ = (
        Index("alert_open", "rule", "subject", unique=True, postgresql_where=text("over_at IS NULL")),
        Index("alert_over", "over_at", postgresql_where=text("over_at IS NOT NULL")),
    )
    id: int = Field(sa_column=generated_id())
    rule: str = Field(sa_column=text_column(required=True))
    """A `shop.alerts.rules.Rule`."""
    subject: str = Field(sa_column=text_column(required=True))
    """The order, step or other subject of the rule; identifies the alert, together with the rule."""
    resource: str = Field(sa_column=text_column(required=True))
    """The resource id of the Prefect event."""
    since: datetime = Field(sa_column=creation_time())
    value: float
    """Value at the last evaluation: a share, seconds, orders or an amount, depending on the rule."""
    threshold: float
    details: dict[str, Any] = Field(sa_column=json_column(required=True))
    judged_at: datetime = Field(sa_column=creation_time())
    over_at: datetime | None = Field(sa_column=time_column())
    over_because: str | None = Field(sa_column=text_column())


class AlertNotice(SQLModel, table=True):
    """A delivery of an alert, written with the alert and sent later: one per phase and channel (`way`: the
    Prefect event, or an entry of ALERT_URLS)."""

    __tablename__ = "alert_notice"
    __table_args__ = (
        CheckConstraint("phase IN ('raised', 'cleared')", name="alert_notice_phase_known"),
        CheckConstraint("way ~ '^(event|url-[1-9][0-9]*)$'", name="alert_notice_way_known"),
        Index("alert_notice_waiting", "next_attempt_at", postgresql_where=text("sent_at IS NULL")),
    )
    alert_id: int = Field(
        sa_column=Column(BigInteger, ForeignKey("alert.id", ondelete="CASCADE"), primary_key=True)
    )
    phase: str = Field(sa_column=text_column(primary_key=True))
    way: str = Field(sa_column=text_column(primary_key=True))
    created_at: datetime = Field(sa_column=creation_time())
    next_attempt_at: datetime = Field(sa_column=creation_time())
    attempts: int = Field(sa_column=counter_column())
    sent_at: datetime | None = Field(sa_column=time_column())
    error: str | None = Field(sa_column=text_column())


class AlertWatch(SQLModel, table=True):
    """One row, which a worker locks while it evaluates the rules, so that only one does."""

    __tablename__ = "alert_watch"
    __table_args__ = (CheckConstraint("id = 1", name="alert_watch_one"),)
    id: int = Field(sa_column=Column(SmallInteger, primary_key=True, autoincrement=False))
    judged_at: datetime | None = Field(sa_column=time_column())
