"""Until when runs that died before they stored their order have been looked for"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "lost_run_search",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "searched_until", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False
        ),
        sa.CheckConstraint("id = 1", name="lost_run_search_one"),
        sa.PrimaryKeyConstraint("id"),
    )
    # A run that was started while these tables were missing may have failed for that. The day before is
    # looked at, too.
    op.execute(
        "INSERT INTO lost_run_search (id, since, searched_until) VALUES "
        "(1, coalesce((SELECT submitted_at FROM customer_order ORDER BY number LIMIT 1), now()), now() - "
        "interval '1 day')"
    )


def downgrade() -> None:
    op.drop_table("lost_run_search")
