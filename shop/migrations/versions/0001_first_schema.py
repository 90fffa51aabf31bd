"""The first schema"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "customer_interaction",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("customer_id", sa.Text(), nullable=False),
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("details", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("order_id", "kind", name="customer_interaction_once"),
    )
    op.create_index("customer_interaction_customer", "customer_interaction", ["customer_id"], unique=False)
    op.create_table(
        "customer_order",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("content", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column(
            "submitted_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("lease_id", sa.Uuid(), nullable=True),
        sa.Column("fence", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("takeovers", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("flow_run_id", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default=sa.text("'received'"), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("failing_step", sa.Text(), nullable=True),
        sa.Column("failure", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "reasons", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'"), nullable=False
        ),
        sa.Column(
            "undone", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'[]'"), nullable=False
        ),
        sa.Column("currency", sa.Text(), server_default=sa.text("'USD'"), nullable=False),
        sa.Column(
            "amount_charged", sa.Numeric(precision=20, scale=6), server_default=sa.text("0"), nullable=False
        ),
        sa.Column(
            "amount_refunded", sa.Numeric(precision=20, scale=6), server_default=sa.text("0"), nullable=False
        ),
        sa.Column(
            "amount_at_risk", sa.Numeric(precision=20, scale=6), server_default=sa.text("0"), nullable=False
        ),
        sa.CheckConstraint(
            "outcome IN ('completed', 'rejected', 'out_of_stock', 'compensated', 'needs_attention')",
            name="customer_order_outcome_known",
        ),
        sa.CheckConstraint("amount_refunded <= amount_charged", name="customer_order_refund_within_charge"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "customer_order_attention",
        "customer_order",
        ["finished_at"],
        unique=False,
        postgresql_where=sa.text("outcome = 'needs_attention'"),
    )
    op.create_index(
        "customer_order_open",
        "customer_order",
        ["number"],
        unique=False,
        postgresql_where=sa.text("outcome IS NULL"),
    )
    op.create_table(
        "lease",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("taken_from", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "order_step",
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("begun_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "notes", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False
        ),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("undo_due", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("undo_status", sa.Text(), nullable=True),
        sa.Column("undo_attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("undo_number", sa.BigInteger(), nullable=True),
        sa.Column("undo_begun_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("undo_ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("undo_result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("undo_error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint("status IN ('begun', 'done', 'failed')", name="order_step_status_known"),
        sa.CheckConstraint("undo_status IN ('begun', 'done', 'failed')", name="order_step_undo_status_known"),
        sa.PrimaryKeyConstraint("order_id", "step"),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "next_attempt_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("order_id", "kind", name="outbox_once"),
    )
    op.create_index(
        "outbox_waiting",
        "outbox",
        ["next_attempt_at"],
        unique=False,
        postgresql_where=sa.text("sent_at IS NULL"),
    )
    op.create_table(
        "product",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("on_hand", sa.BigInteger(), nullable=False),
        sa.Column("reserved", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("on_hand >= 0", name="product_on_hand_not_negative"),
        sa.CheckConstraint("reserved >= 0 AND reserved <= on_hand", name="product_never_oversold"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "reservation",
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("items", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('held', 'released', 'shipped')", name="reservation_state_known"),
        sa.PrimaryKeyConstraint("order_id"),
    )
    op.create_index(
        "reservation_held",
        "reservation",
        ["expires_at"],
        unique=False,
        postgresql_where=sa.text("state = 'held'"),
    )
    op.create_table(
        "shipment",
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("serial", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("tracking_number", sa.Text(), nullable=False),
        sa.Column("carrier", sa.Text(), nullable=False),
        sa.Column("service", sa.Text(), nullable=False),
        sa.Column("label_path", sa.Text(), nullable=False),
        sa.Column("items", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("order_id"),
        sa.UniqueConstraint("tracking_number"),
    )
    # Their rows are updated soon after they are written: with room on the page, an update does not touch the
    # indexes.
    op.execute("ALTER TABLE customer_order SET (fillfactor = 60)")
    op.execute("ALTER TABLE order_step SET (fillfactor = 60)")


def downgrade() -> None:
    op.drop_table("shipment")
    op.drop_index("reservation_held", table_name="reservation", postgresql_where=sa.text("state = 'held'"))
    op.drop_table("reservation")
    op.drop_table("product")
    op.drop_index("outbox_waiting", table_name="outbox", postgresql_where=sa.text("sent_at IS NULL"))
    op.drop_table("outbox")
    op.drop_table("order_step")
    op.drop_table("lease")
    op.drop_index(
        "customer_order_open", table_name="customer_order", postgresql_where=sa.text("outcome IS NULL")
    )
    op.drop_index(
        "customer_order_attention",
        table_name="customer_order",
        postgresql_where=sa.text("outcome = 'needs_attention'"),
    )
    op.drop_table("customer_order")
    op.drop_index("customer_interaction_customer", table_name="customer_interaction")
    op.drop_table("customer_interaction")
