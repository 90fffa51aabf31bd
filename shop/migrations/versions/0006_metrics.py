"""What metrics are read from. The generated columns rewrite two tables: ten seconds for a million journal
rows, in which nothing else can write to them."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_CELL = "floor(ln(least(greatest(date_part('epoch', {ended} - {begun}), 0.0001), 1e9)) * 20)::smallint"


def upgrade() -> None:
    op.execute(
        f"ALTER TABLE order_step ADD COLUMN cell smallint GENERATED ALWAYS AS "
        f"({_CELL.format(ended='ended_at', begun='begun_at')}) STORED, "
        "ADD COLUMN remark text GENERATED ALWAYS AS (left(coalesce(error ->> 'code', result ->> "
        "'generation_model'), 100)) STORED"
    )
    op.execute(
        "ALTER TABLE customer_order ADD COLUMN cell smallint "
        f"GENERATED ALWAYS AS ({_CELL.format(ended='finished_at', begun='submitted_at')}) STORED"
    )
    op.create_index(
        "order_step_ended",
        "order_step",
        ["ended_at"],
        postgresql_include=["step", "status", "remark", "cell", "attempts"],
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )
    op.create_index(
        "order_step_undone",
        "order_step",
        ["undo_ended_at"],
        postgresql_include=["step", "undo_status", "undo_begun_at", "undo_attempts"],
        postgresql_where=sa.text("undo_ended_at IS NOT NULL"),
    )
    op.create_index(
        "order_step_warned",
        "order_step",
        ["ended_at"],
        postgresql_where=sa.text("(result -> 'validation_warnings') <> '[]'::jsonb"),
    )
    op.create_index(
        "customer_order_finished",
        "customer_order",
        ["finished_at"],
        postgresql_include=["outcome", "currency", "amount_charged", "amount_refunded", "cell"],
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_index(
        "outbox_sent",
        "outbox",
        ["sent_at"],
        postgresql_include=["kind", "attempts"],
        postgresql_where=sa.text("sent_at IS NOT NULL"),
    )
    op.create_table(
        "worker_process",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("flow_run_id", sa.Text(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("every_seconds", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("worker_process_seen", "worker_process", ["seen_at"])
    op.create_table(
        "system_sample",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("process_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("process_cpu_percent", sa.Float(), nullable=True),
        sa.Column("process_memory_mb", sa.Float(), nullable=True),
        sa.Column("cpu_percent", sa.Float(), nullable=True),
        sa.Column("memory_percent", sa.Float(), nullable=True),
        sa.Column("disk_percent", sa.Float(), nullable=True),
        sa.Column("connections_in_use", sa.Integer(), nullable=False),
        sa.Column("connections_open", sa.Integer(), nullable=False),
        sa.Column("connections_most", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("system_sample_at", "system_sample", ["at"])


def downgrade() -> None:
    op.drop_table("system_sample")
    op.drop_table("worker_process")
    op.drop_index("outbox_sent", "outbox")
    op.drop_index("customer_order_finished", "customer_order")
    for name in ("warned", "undone", "ended"):
        op.drop_index(f"order_step_{name}", "order_step")
    op.drop_column("customer_order", "cell")
    op.drop_column("order_step", "remark")
    op.drop_column("order_step", "cell")
