"""Reservations of the inventory service"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

_STATES = "state IN ('held', 'released', 'shipped', 'returned')"
_MORE_STATES = "state IN ('held', 'released', 'shipped', 'returned', 'expired')"


def upgrade() -> None:
    op.add_column(
        "reservation", sa.Column("at_service", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.drop_constraint("reservation_state_known", "reservation", type_="check")
    op.create_check_constraint("reservation_state_known", "reservation", _MORE_STATES)


def downgrade() -> None:
    op.execute("UPDATE reservation SET state = 'released' WHERE state = 'expired'")
    op.drop_constraint("reservation_state_known", "reservation", type_="check")
    op.create_check_constraint("reservation_state_known", "reservation", _STATES)
    op.drop_column("reservation", "at_service")
