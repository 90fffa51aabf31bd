"""Settings of the reconciliation."""

from __future__ import annotations

from pydantic import Field

from saga.configuration import LARGEST
from shop.runtime.setting_groups import Group, prefixed


class ReconciliationSettings(Group):
    """Reconciliation"""

    model_config = prefixed("RECONCILIATION_")

    grace_seconds: float = Field(default=600, ge=0, le=LARGEST)
    """Orders that ended, and payments that changed, within this time are not compared yet."""
