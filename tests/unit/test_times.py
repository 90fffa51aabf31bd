"""Times that people read are in the shop's time zone."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from pydantic import ValidationError

from deployments.environment import environment
from shop.monitoring.dashboard.dashboard import part_names
from shop.runtime.settings import ShopSettings
from shop.runtime.times import bounds_of, day_of, in_shop, shown, shown_minute
from tests.unit.test_charts import figures

MIDNIGHT = datetime(2026, 6, 30, 22, 30, tzinfo=UTC)


def test_times_are_shown_with_their_zone() -> None:
    assert shown(MIDNIGHT) == "2026-06-30 22:30:00 UTC"
    with environment({"SHOP_TIMEZONE": "Europe/Vienna"}):
        assert shown(MIDNIGHT) == "2026-07-01 00:30:00 CEST"
        assert shown_minute(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01 01:00 CET"
        assert day_of(MIDNIGHT) == date(2026, 7, 1)
        assert in_shop(datetime(2026, 7, 1)) == datetime(2026, 6, 30, 22, tzinfo=UTC)  # noqa: DTZ001
        assert in_shop(MIDNIGHT) is MIDNIGHT


@pytest.mark.parametrize(
    ("zone", "day", "begin", "hours"),
    [
        ("UTC", date(2026, 3, 29), datetime(2026, 3, 29, tzinfo=UTC), 24),
        ("Europe/Vienna", date(2026, 3, 29), datetime(2026, 3, 28, 23, tzinfo=UTC), 23),
        ("Europe/Vienna", date(2026, 10, 25), datetime(2026, 10, 24, 22, tzinfo=UTC), 25),
        ("Asia/Kathmandu", date(2026, 1, 1), datetime(2025, 12, 31, 18, 15, tzinfo=UTC), 24),
    ],
)
def test_a_day_begins_and_ends_at_the_shops_midnight(
    zone: str, day: date, begin: datetime, hours: int
) -> None:
    with environment({"SHOP_TIMEZONE": zone}):
        since, until = bounds_of(day)
        assert since == begin
        assert (until - since).total_seconds() == hours * 3600
        assert day_of(since) == day


def test_charts_name_the_shops_hours() -> None:
    before = part_names(figures())
    with environment({"SHOP_TIMEZONE": "Asia/Kathmandu"}):
        after = part_names(figures())
    assert len(after) == len(before)
    assert [name[3:] for name in before] != [name[3:] for name in after]


@pytest.mark.parametrize("name", ["Europe/Nowhere", "../etc/passwd", "", "CEST+2", "x" * 3000, "Europe/"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="SHOP_TIMEZONE"):
        ShopSettings(SHOP_TIMEZONE=name)
