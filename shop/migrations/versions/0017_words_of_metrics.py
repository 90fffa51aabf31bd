"""Words of the metrics: attempts are `postponed`, not `put_off`; a consumer of waiting orders is no
`drain`."""

from collections.abc import Sequence

from alembic import op

revision: str = "0017"
down_revision: str | None = "0016"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute("UPDATE metric_total SET result = 'postponed' WHERE result = 'put_off'")
    op.execute("UPDATE worker_process SET kind = 'consumer' WHERE kind = 'drain'")


def downgrade() -> None:
    op.execute("UPDATE metric_total SET result = 'put_off' WHERE result = 'postponed'")
    op.execute("UPDATE worker_process SET kind = 'drain' WHERE kind = 'consumer'")
