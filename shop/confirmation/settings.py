"""Settings of the confirmation's text and of the language model."""

from __future__ import annotations

from pydantic import Field, SecretStr

from saga.configuration import Seconds
from shop.runtime.setting_groups import Group, Url, prefixed

LOCAL = "local/"
"""Prefix of the names of models that `local_model` serves on this machine."""


class ConfirmationSettings(Group):
    """Confirmation"""

    model_config = prefixed("CONFIRMATION_")

    timeout_seconds: Seconds = Field(default=10, le=50)
    """Time limit of the language model, after which the template writes the text; at most 50."""
    concurrency: int = Field(default=8, ge=1)
    """Limits the concurrent calls of the language model."""
    tone: str = "professional_friendly"
    """Tone of the text, passed to the language model."""


class LanguageModelSettings(Group):
    """Language model"""

    model_config = prefixed("DSPY_")

    model: str | None = None
    """Name of the language model as `dspy.LM` takes it, such as `openai/gpt-4o-mini`, or
    `local/smollm2-135m` after `make llm`. Default: the template writes the text."""
    api_base: Url | None = None
    """Address of the model. `make run` sets the address of a local model."""
    api_key: SecretStr | None = None
    """Key of the model's provider."""
    max_tokens: int = Field(default=500, ge=50)
    """Limits the length of an answer, in tokens."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Temperature of the model. For a local model, the default is 0."""
    reflection_model: str | None = None
    """A large model, used only by the optimiser GEPA."""
    reflection_api_base: Url | None = None
    """Address of the large model. Default: `DSPY_API_BASE` if the provider is the same."""
    reflection_api_key: SecretStr | None = None
    """Key for the large model. Default: `DSPY_API_KEY` if the provider is the same."""
