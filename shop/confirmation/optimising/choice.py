"""Which optimiser is taken.

| optimiser | what it does | taken |
| --- | --- | --- |
| BootstrapFewShot | keeps the model's own good answers as demonstrations | with few orders to learn from |
| MIPROv2 | the same, and tries other instructions that the model proposes | from `MANY` orders on |
| GEPA | another model reads what was wrong and rewrites the instructions | if `DSPY_REFLECTION_MODEL` is set |
"""

from __future__ import annotations

from enum import StrEnum

from shop.settings import Settings

MANY = 40
"""Orders to learn from, from which on trying instructions is worth the calls."""


class Optimizer(StrEnum):
    """What can be chosen; `auto` is `choose`."""

    AUTO = "auto"
    BOOTSTRAP = "bootstrap"
    MIPRO = "mipro"
    GEPA = "gepa"


class NoModel(Exception):
    """There is nothing to optimise without a language model."""


class NoReflectionModel(Exception):
    """GEPA needs a second model."""


def choose(wanted: Optimizer, orders: int, settings: Settings) -> Optimizer:
    """The optimiser for so many orders. Raises NoReflectionModel for GEPA without `DSPY_REFLECTION_MODEL`."""
    if wanted is Optimizer.GEPA and settings.dspy_reflection_model is None:
        raise NoReflectionModel("GEPA needs a model that reads what was wrong: set DSPY_REFLECTION_MODEL")
    if wanted is not Optimizer.AUTO:
        return wanted
    if settings.dspy_reflection_model is not None:
        return Optimizer.GEPA
    return Optimizer.MIPRO if orders >= MANY else Optimizer.BOOTSTRAP
