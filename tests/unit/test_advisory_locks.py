"""The advisory locks of one number do not exclude each other."""

from __future__ import annotations

from deployments.setup import database
from shop.monitoring import traces
from shop.runtime import migrate


def test_no_two_locks_have_the_same_number() -> None:
    numbers = [database._CREATING, database._SETTING_UP, traces._LOCK, migrate._LOCK]
    assert len(set(numbers)) == len(numbers)
