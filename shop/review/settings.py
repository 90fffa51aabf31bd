"""Settings of the manual review."""

from __future__ import annotations

from saga.configuration import Seconds
from shop.runtime.setting_groups import Group, prefixed


class ReviewSettings(Group):
    """Manual review"""

    model_config = prefixed("DESK_")

    retry_seconds: Seconds = 60
    """First pause before a failed compensation is tried again; it doubles each time."""
    retry_max_seconds: Seconds = 6 * 3600
    """Longest pause between two tries."""
