"""The engine's settings. A saga's owner provides them once: `provide(settings)`; otherwise the environment
does."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

LARGEST = 10**6
"""Limits durations, in seconds or whatever their unit is, so that no library's clock overflows."""


def _bounded(value: float) -> float:
    if value > LARGEST:
        raise ValueError(f"must be {LARGEST} at most")
    return value


# A validator, because an upper bound in this `Field` would replace those of single settings.
Seconds = Annotated[float, Field(gt=0), AfterValidator(_bounded)]


def psycopg_url(url: str) -> str:
    """Accepts the usual spellings of a PostgreSQL address and names psycopg 3 as its driver."""
    for prefix in ("postgresql+psycopg://", "postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    raise ValueError(
        "DATABASE_URL must start with postgresql:// (PostgreSQL is the only database this runs on)"
    )


class EngineSettings(BaseSettings):
    """Settings of the engine. Environment variables have the same names in upper case."""

    model_config = SettingsConfigDict(
        frozen=True,
        hide_input_in_errors=True,
        env_ignore_empty=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    database_url: Annotated[str, AfterValidator(psycopg_url)] = "postgresql+psycopg://postgres@localhost/saga"
    lease_seconds: Seconds = 8
    """How long a lease lasts without renewal, after which other workers take over a dead worker's instances.
    """
    batch_size: int = Field(default=1_000, ge=1, le=5_000)
    """Limits how many instances share each task run in the batch lane."""
    batches_under_way: int = Field(default=2, ge=1, le=16)
    """How many batches a consumer runs side by side."""
    straggler_seconds: Seconds = 1.5
    """How long a batch waits for its last few calls before it continues without them."""
    poll_seconds: Seconds = 1
    """How often a worker looks for work of which it was not notified."""
    max_takeovers: int = Field(default=20, ge=1)
    """How many workers may die with an instance as their only one before it is compensated."""


_provider: Callable[[], EngineSettings] = lru_cache(EngineSettings)


def provide(provider: Callable[[], EngineSettings]) -> None:
    """Lets the engine read its settings from `provider`, which is called each time."""
    global _provider  # noqa: PLW0603
    _provider = provider


def config() -> EngineSettings:
    """The engine's settings."""
    return _provider()
