"""Windows of metrics, as people type them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from shop.monitoring.window import parse


@pytest.mark.parametrize("asked", ["999999d", "36526d", "876601h"])
def test_a_window_that_begins_before_time_is_refused(asked: str) -> None:
    with pytest.raises(ValueError, match="longer than 100 years"):
        parse(asked)


@pytest.mark.parametrize("asked", ["36525d", "7d", "999999s"])
def test_others_can_be_computed(asked: str) -> None:
    assert parse(asked).at(datetime.now(UTC)).since is not None
