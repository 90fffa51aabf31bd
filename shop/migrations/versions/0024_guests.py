"""Contacts of guests: a customer's id may be missing"""

from collections.abc import Sequence

from alembic import op

revision: str = "0024"
down_revision: str | None = "0023"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.alter_column("customer_interaction", "customer_id", nullable=True)


def downgrade() -> None:
    op.execute("UPDATE customer_interaction SET customer_id = '' WHERE customer_id IS NULL")
    op.alter_column("customer_interaction", "customer_id", nullable=False)
