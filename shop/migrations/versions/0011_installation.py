"""An id of this installation, for what it shares with others: gateway accounts, carriers, inventory
services"""

import secrets
from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "installation",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("singleton"),
        sa.CheckConstraint("singleton", name="installation_is_one"),
    )
    op.execute(sa.text("INSERT INTO installation (id) VALUES (:id)").bindparams(id=secrets.token_hex(8)))


def downgrade() -> None:
    op.drop_table("installation")
