"""Labels are drawn when they are needed: a shipment has what they say, not a path"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0020"
down_revision: str | None = "0019"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("shipment", sa.Column("sender", postgresql.JSONB(), nullable=True))
    op.drop_column("shipment", "label_path")


def downgrade() -> None:
    op.add_column("shipment", sa.Column("label_path", sa.Text(), server_default="", nullable=False))
    op.alter_column("shipment", "label_path", server_default=None)
    op.drop_column("shipment", "sender")
