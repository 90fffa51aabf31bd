"""Alerts and who is to be told of them; what an order waits for outside, and when its customer's data was
erased."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0009"
down_revision = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def _time(name: str, *, now: bool = False) -> sa.Column[Any]:
    return sa.Column(
        name, sa.DateTime(timezone=True), server_default=sa.text("now()") if now else None, nullable=not now
    )


def upgrade() -> None:
    op.execute(
        "ALTER TABLE customer_order ADD COLUMN waits_for text, ADD COLUMN waits_since timestamptz, ADD "
        "COLUMN erased_at timestamptz"
    )
    op.create_table(
        "alert",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        _time("since", now=True),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("details", JSONB(), nullable=False),
        _time("judged_at", now=True),
        _time("over_at"),
        sa.Column("over_because", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "alert_open", "alert", ["rule", "subject"], unique=True, postgresql_where=sa.text("over_at IS NULL")
    )
    op.create_index("alert_over", "alert", ["over_at"], postgresql_where=sa.text("over_at IS NOT NULL"))
    op.create_table(
        "alert_notice",
        sa.Column("alert_id", sa.BigInteger(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("way", sa.Text(), nullable=False),
        _time("created_at", now=True),
        _time("next_attempt_at", now=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        _time("sent_at"),
        sa.Column("error", sa.Text(), nullable=True),
        sa.CheckConstraint("phase IN ('raised', 'cleared')", name="alert_notice_phase_known"),
        sa.CheckConstraint("way IN ('event', 'mail', 'webhook')", name="alert_notice_way_known"),
        sa.ForeignKeyConstraint(["alert_id"], ["alert.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("alert_id", "phase", "way"),
    )
    op.create_index(
        "alert_notice_waiting",
        "alert_notice",
        ["next_attempt_at"],
        postgresql_where=sa.text("sent_at IS NULL"),
    )
    op.create_table(
        "alert_watch",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        _time("judged_at"),
        sa.CheckConstraint("id = 1", name="alert_watch_one"),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    op.drop_table("alert_watch")
    op.drop_table("alert_notice")
    op.drop_table("alert")
    for column in ("erased_at", "waits_since", "waits_for"):
        op.drop_column("customer_order", column)
