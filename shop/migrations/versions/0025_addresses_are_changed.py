"""The address that a person replaced is kept with the decision"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0025"
down_revision: str | None = "0024"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("desk_entry", sa.Column("old_address", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("desk_entry", "old_address")
