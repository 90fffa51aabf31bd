"""What can be chosen as the optimiser. Apart from `run`, so that a form can be made without importing DSPy."""

from __future__ import annotations

from enum import StrEnum


class Optimizer(StrEnum):
    """One of DSPy's optimisers. `auto` is GEPA if `DSPY_REFLECTION_MODEL` is set, else BootstrapFewShot."""

    AUTO = "auto"
    BOOTSTRAP = "bootstrap"
    MIPRO = "mipro"
    GEPA = "gepa"
