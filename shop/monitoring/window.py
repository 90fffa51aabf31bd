"""The time window of metrics."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo

from pydantic import AwareDatetime, Field

from shop.values.frozen import Frozen

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_AGO = re.compile(r"(\d{1,6})\s*([smhd])")
_LONGEST = timedelta(days=36_525)
"""Limits a relative window: times before the year 1 cannot be represented."""
_ALWAYS = (datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC))


class Window(Frozen):
    """From `since` (inclusive) to `until` (exclusive), in UTC; None: unbounded."""

    name: str
    """The window as text, for people."""
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    ago: timedelta | None = Field(default=None, exclude=True)
    """Instead of `since`: the time before the metrics are read."""

    def at(self, now: datetime) -> Window:
        """Returns the window with `since` computed from `now`, a time of the database's clock."""
        return self if self.ago is None else Window(name=self.name, since=now - self.ago, until=self.until)

    @property
    def bounds(self) -> dict[str, datetime]:
        """The statement parameters `since` and `until`. Only for a window with a computed `since` (`at`)."""
        if self.ago is not None:
            raise ValueError("this window is relative: call at() first")
        return {"since": self.since or _ALWAYS[0], "until": self.until or _ALWAYS[1]}


def last(**ago: float) -> Window:
    """Returns the window of the last `minutes`, `hours` or `days`, until now."""
    ((unit, number),) = ago.items()
    name = f"the last {number:g} {unit}" if number != 1 else f"the last {unit.removesuffix('s')}"
    return Window(name=name, ago=timedelta(**ago))


def parse(asked: str, zone: tzinfo = UTC) -> Window:
    """Parses `10m`, `1h`, `24h`, `7d`, `all`, or two ISO times as `FROM/TO`, either of which may be omitted.
    A time without a zone is in `zone`.

    Raises ValueError with a message for the user.
    """
    if asked == "all":
        return Window(name="all time")
    if found := _AGO.fullmatch(asked):
        found_window = last(**{_UNITS[found[2]]: int(found[1])})
        if found_window.ago is not None and found_window.ago > _LONGEST:
            raise ValueError(f"{asked!r} is longer than 100 years: use all")
        return found_window
    begin, slash, end = asked.partition("/")
    if not slash:
        raise ValueError(
            f"{asked!r} is not a window: use 10m, 1h, 24h, 7d, all, "
            "or FROM/TO in ISO 8601 (2031-02-03T09:30/2031-02-03T10:00)"
        )
    since, until = _time(begin, zone), _time(end, zone)
    if since and until and since >= until:
        raise ValueError(f"{asked!r} ends before it begins")
    return Window(name=asked, since=since, until=until)


def _time(given: str, zone: tzinfo) -> datetime | None:
    if not given.strip():
        return None
    try:
        time = datetime.fromisoformat(given.strip())
    except ValueError as error:
        raise ValueError(f"{given!r} is not a time in ISO 8601, such as 2031-02-03T09:30:00+00:00") from error
    return time if time.tzinfo else time.replace(tzinfo=zone)
