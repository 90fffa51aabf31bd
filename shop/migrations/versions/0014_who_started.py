"""What the system knows of who decided something at the desk"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("desk_entry", sa.Column("started_by", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("desk_entry", "started_by")
