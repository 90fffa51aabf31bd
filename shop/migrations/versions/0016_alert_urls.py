"""Alerts are delivered to the entries of ALERT_URLS: the mail becomes the first of them, the webhook the
second"""

from collections.abc import Sequence

from alembic import op

revision: str = "0016"
down_revision: str | None = "0015"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.drop_constraint("alert_notice_way_known", "alert_notice")
    op.execute(
        "UPDATE alert_notice SET way = CASE way WHEN 'mail' THEN 'url-1' ELSE 'url-2' END WHERE way <> "
        "'event'"
    )
    op.create_check_constraint("alert_notice_way_known", "alert_notice", "way ~ '^(event|url-[1-9][0-9]*)$'")


def downgrade() -> None:
    op.drop_constraint("alert_notice_way_known", "alert_notice")
    op.execute("DELETE FROM alert_notice WHERE way NOT IN ('event', 'url-1', 'url-2')")
    op.execute(
        "UPDATE alert_notice SET way = CASE way WHEN 'url-1' THEN 'mail' ELSE 'webhook' END WHERE way <> "
        "'event'"
    )
    op.create_check_constraint(
        "alert_notice_way_known", "alert_notice", "way IN ('event', 'mail', 'webhook')"
    )
