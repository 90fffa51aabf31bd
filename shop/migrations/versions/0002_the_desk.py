"""The desk: orders that need attention, cancelling, returns"""

from collections.abc import Sequence
from decimal import Decimal

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# What is on the desk already: it is retried soon.
_ALREADY = """
    INSERT INTO attention (order_id, since, step, currency, amount_at_risk, last_error, error_code, next_retry_at)
    SELECT o.id, coalesce(o.finished_at, now()), coalesce(s.step, o.failing_step, 'unknown'), o.currency, o.amount_at_risk,
        coalesce(s.undo_error ->> 'message', 'unknown'), coalesce(s.undo_error ->> 'code', 'unknown'), now()
    FROM customer_order o
    LEFT JOIN LATERAL (
        SELECT step, undo_error FROM order_step WHERE order_id = o.id AND undo_due AND undo_status = 'failed' ORDER BY number DESC LIMIT 1
    ) s ON true
    WHERE o.outcome = 'needs_attention'
"""


def _amount(name: str) -> sa.Column[Decimal]:
    return sa.Column(name, sa.Numeric(precision=20, scale=6), server_default=sa.text("0"), nullable=False)


def upgrade() -> None:
    op.create_table(
        "attention",
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        _amount("amount_at_risk"),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=False),
        sa.Column("retries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_retry_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resolved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("resolution", sa.Text(), nullable=True),
        _amount("amount_by_hand"),
        _amount("amount_written_off"),
        sa.CheckConstraint(
            "resolution IN ('undone', 'refunded_by_hand', 'written_off')", name="attention_resolution_known"
        ),
        sa.CheckConstraint("(resolution IS NULL) = (resolved_at IS NULL)", name="attention_resolved_somehow"),
        sa.PrimaryKeyConstraint("order_id"),
    )
    op.create_index(
        "attention_open",
        "attention",
        ["next_retry_at"],
        unique=False,
        postgresql_where=sa.text("resolved_at IS NULL"),
    )
    op.create_table(
        "desk_entry",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        _amount("amount"),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("desk_entry_order", "desk_entry", ["order_id"], unique=False)
    op.add_column(
        "customer_order", sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True)
    )
    op.add_column("customer_order", sa.Column("cancel_reason", sa.Text(), nullable=True))
    op.add_column("customer_order", sa.Column("cancel_requested_by", sa.Text(), nullable=True))
    op.create_index(
        "customer_order_cancelling",
        "customer_order",
        ["cancel_requested_at"],
        unique=False,
        postgresql_where=sa.text("cancel_requested_at IS NOT NULL AND outcome IS NULL"),
    )
    op.add_column("shipment", sa.Column("returned_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_constraint("reservation_state_known", "reservation", type_="check")
    op.create_check_constraint(
        "reservation_state_known", "reservation", "state IN ('held', 'released', 'shipped', 'returned')"
    )
    op.execute(_ALREADY)


def downgrade() -> None:
    op.drop_constraint("reservation_state_known", "reservation", type_="check")
    op.create_check_constraint(
        "reservation_state_known", "reservation", "state IN ('held', 'released', 'shipped')"
    )
    op.drop_column("shipment", "returned_at")
    op.drop_index("customer_order_cancelling", table_name="customer_order")
    op.drop_column("customer_order", "cancel_requested_by")
    op.drop_column("customer_order", "cancel_reason")
    op.drop_column("customer_order", "cancel_requested_at")
    op.drop_table("desk_entry")
    op.drop_table("attention")
