"""The selectable optimisers. Separate from `run`, so that a form does not import DSPy."""

from __future__ import annotations

from enum import StrEnum


class Optimizer(StrEnum):
    """One of DSPy's optimisers. `auto` is GEPA if `DSPY_REFLECTION_MODEL` is set, else BootstrapFewShot."""

    AUTO = "auto"
    BOOTSTRAP = "bootstrap"
    MIPRO = "mipro"
    GEPA = "gepa"
