"""Orders are listed and searched"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0023"
down_revision: str | None = "0022"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_index("customer_order_submitted", "customer_order", ["submitted_at", "number"])
    op.create_index(
        "customer_order_not_completed",
        "customer_order",
        ["outcome", "submitted_at"],
        postgresql_where=sa.text("outcome IS NOT NULL AND outcome <> 'completed'"),
    )
    op.create_index(
        "customer_order_customer",
        "customer_order",
        [sa.text("hashtextextended(content ->> 'customer_id'::text, 0::bigint)"), "submitted_at"],
    )
    op.create_index(
        "customer_order_email",
        "customer_order",
        [
            sa.text("hashtextextended(lower(content ->> 'customer_email'::text), 0::bigint)"),
            "submitted_at",
        ],
    )


def downgrade() -> None:
    for name in ("email", "customer", "not_completed", "submitted"):
        op.drop_index(f"customer_order_{name}", "customer_order")
