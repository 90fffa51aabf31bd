"""The lease that an order was taken over from: a takeover does not count if its holder lived and had lost the
database"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("customer_order", sa.Column("taken_over_from", sa.Uuid(), nullable=True))
    op.create_index(
        "customer_order_taken_over",
        "customer_order",
        ["taken_over_from"],
        postgresql_where=sa.text("taken_over_from IS NOT NULL AND outcome IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("customer_order_taken_over", "customer_order")
    op.drop_column("customer_order", "taken_over_from")
