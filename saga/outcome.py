"""How an instance ends."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

COMPLETED = "completed"
"""Every step is done."""
COMPENSATED = "compensated"
"""A step failed, and every compensation that was due is done."""
NEEDS_ATTENTION = "needs_attention"
"""A compensation failed: a person has to act."""


class Compensation(BaseModel):
    """One compensation that ran."""

    model_config = ConfigDict(frozen=True)

    step: str
    compensation: str
    """Its name."""
    status: str
    """What it reports, such as `success` or `no_payment_to_refund`; `failed` if it failed."""
    details: dict[str, Any] = Field(default_factory=dict)
