"""Settings of the manual review."""

from __future__ import annotations

from saga.configuration import Seconds
from shop.runtime.setting_groups import Group, prefixed


class ReviewSettings(Group):
    """Manual review"""

    model_config = prefixed("REVIEW_")

    retry_seconds: Seconds = 60
    """Pause before the first retry of a failed compensation; it doubles with each retry."""
    retry_max_seconds: Seconds = 6 * 3600
    """Maximum pause between two retries."""
