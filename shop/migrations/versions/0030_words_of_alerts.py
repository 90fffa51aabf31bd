"""A rule of the alerts is named `external_unavailable`, as in the code"""

from collections.abc import Sequence

from alembic import op

revision: str = "0030"
down_revision: str | None = "0029"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("UPDATE alert SET rule = 'external_unavailable' WHERE rule = 'outside_away'")


def downgrade() -> None:
    op.execute("UPDATE alert SET rule = 'outside_away' WHERE rule = 'external_unavailable'")
