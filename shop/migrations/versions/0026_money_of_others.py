"""Money that others take for orders: paid already, in part, by transfer, on delivery"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0026"
down_revision: str | None = "0025"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_NOW = sa.text("now()")


def upgrade() -> None:
    op.add_column(
        "customer_order",
        sa.Column("amount_elsewhere", sa.Numeric(20, 6), server_default=sa.text("0"), nullable=False),
    )
    op.create_table(
        "adopted_payment",
        sa.Column("payment_id", sa.Text(), primary_key=True),
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("adopted_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
    )
    op.create_index("adopted_payment_order", "adopted_payment", ["order_id"])
    op.create_table(
        "received_payment",
        sa.Column("order_id", sa.Text(), primary_key=True),
        sa.Column("reference", sa.Text(), primary_key=True),
        sa.Column("amount", sa.Numeric(20, 6), server_default=sa.text("0"), nullable=False),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("recorded_by", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), server_default=_NOW, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("received_payment")
    op.drop_table("adopted_payment")
    op.drop_column("customer_order", "amount_elsewhere")
