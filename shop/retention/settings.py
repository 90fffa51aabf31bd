"""Settings of data retention."""

from __future__ import annotations

from pydantic import Field

from saga.configuration import LARGEST
from shop.runtime.setting_groups import Group, prefixed


class RetentionSettings(Group):
    """Retention"""

    model_config = prefixed("")

    customer_data_days: float | None = Field(default=None, gt=0, le=LARGEST)
    """Days after an order's outcome after which its customer's data is erased. Default: never."""
