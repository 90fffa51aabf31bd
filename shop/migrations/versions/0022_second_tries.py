"""An order can be tried again: its earlier tries, and messages of each"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0022"
down_revision: str | None = "0021"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_MESSAGES = ("outbox", "customer_interaction")


def upgrade() -> None:
    op.create_table(
        "order_try",
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("failing_step", sa.Text(), nullable=True),
        sa.Column("failure", postgresql.JSONB(), nullable=True),
        sa.Column("reasons", postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("undone", postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("amount_charged", sa.Numeric(20, 6), server_default=sa.text("0"), nullable=False),
        sa.Column("amount_refunded", sa.Numeric(20, 6), server_default=sa.text("0"), nullable=False),
        sa.Column("begun_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("journal", postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("retried_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=True),
        sa.Column("started_by", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("order_id", "number"),
    )
    op.create_index("order_try_finished", "order_try", ["finished_at"])
    for table in _MESSAGES:
        op.add_column(
            table, sa.Column("try_number", sa.Integer(), server_default=sa.text("1"), nullable=False)
        )
        op.drop_constraint(f"{table}_once", table)
        op.create_unique_constraint(f"{table}_once", table, ["order_id", "kind", "try_number"])


def downgrade() -> None:
    for table in _MESSAGES:
        op.execute(f"DELETE FROM {table} WHERE try_number > 1")  # noqa: S608
        op.drop_constraint(f"{table}_once", table)
        op.drop_column(table, "try_number")
        op.create_unique_constraint(f"{table}_once", table, ["order_id", "kind"])
    op.drop_table("order_try")
