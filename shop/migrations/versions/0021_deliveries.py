"""Deliveries: what `received` is the sum of"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0021"
down_revision: str | None = "0020"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "delivery",
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("items", postgresql.JSONB(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("received_by", sa.Text(), nullable=True),
        sa.Column("started_by", sa.Text(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("reference"),
    )
    op.execute(
        "INSERT INTO delivery (reference, items, started_by, note) "
        "SELECT 'opening stock of ' || id, jsonb_build_object(id, received), 'order-saga migrate', "
        "'received before deliveries were recorded' FROM product WHERE received <> 0"
    )


def downgrade() -> None:
    op.drop_table("delivery")
