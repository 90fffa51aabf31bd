"""How often an order's worker died with no other order in hand: only that counts against the order"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0015"
down_revision: str | None = "0014"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("lease", sa.Column("orders_left", sa.Integer(), nullable=True))
    op.add_column(
        "customer_order", sa.Column("lone_deaths", sa.Integer(), server_default=sa.text("0"), nullable=False)
    )
    op.create_index(
        "customer_order_suspected",
        "customer_order",
        ["number"],
        postgresql_where=sa.text("outcome IS NULL AND takeovers >= 2"),
    )


def downgrade() -> None:
    op.drop_index("customer_order_suspected", "customer_order")
    op.drop_column("customer_order", "lone_deaths")
    op.drop_column("lease", "orders_left")
