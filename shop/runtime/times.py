"""Shows times in the shop's time zone (`SHOP_TIMEZONE`). Everything that is stored, and everything that
programs read (HTTP, JSON, CSV), is in UTC."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from shop.settings import settings


def shop_zone() -> tzinfo:
    return _zone(settings().shop.timezone)


@lru_cache(maxsize=8)
def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)


def local(when: datetime) -> datetime:
    """Returns the time in the shop's time zone."""
    return when.astimezone(shop_zone())


def shown(when: datetime) -> str:
    """Returns the time to the second, with its zone, for people: `2026-07-01 09:30:00 CEST`."""
    return f"{local(when):%Y-%m-%d %H:%M:%S %Z}"


def shown_minute(when: datetime) -> str:
    """Returns the time to the minute, with its zone: `2026-07-01 09:30 CEST`."""
    return f"{local(when):%Y-%m-%d %H:%M %Z}"


def shown_time(when: datetime) -> str:
    """Returns the time of the day, with its zone: `09:30:00 CEST`."""
    return f"{local(when):%H:%M:%S %Z}"


def day_of(when: datetime) -> date:
    return local(when).date()


def bounds_of(day: date) -> tuple[datetime, datetime]:
    """Returns when the shop's day begins and ends, in UTC. It has 23 or 25 hours when clocks change."""
    first, last = (datetime.combine(each, time(), shop_zone()) for each in (day, day + timedelta(days=1)))
    return first.astimezone(UTC), last.astimezone(UTC)


def in_shop(when: datetime) -> datetime:
    """Returns a time that a person has typed: without a zone, it is in the shop's."""
    return when if when.tzinfo is not None else when.replace(tzinfo=shop_zone())
