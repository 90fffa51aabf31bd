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
        sa.Column("searched_until", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("id = 1", name="lost_run_search_one"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute("INSERT INTO lost_run_search (id) VALUES (1)")


def downgrade() -> None:
    op.drop_table("lost_run_search")
