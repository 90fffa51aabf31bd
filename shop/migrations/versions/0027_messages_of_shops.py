"""The newest message of a shop about each order, also about one that was cancelled before it came"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0027"
down_revision: str | None = "0026"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "shop_message",
        sa.Column("order_id", sa.Text(), primary_key=True),
        sa.Column("newest_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed", sa.Text(), nullable=True),
    )


def downgrade() -> None:
    op.drop_table("shop_message")
