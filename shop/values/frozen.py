"""Base class of models whose values do not change."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A model whose fields cannot be assigned."""

    model_config = ConfigDict(frozen=True)
