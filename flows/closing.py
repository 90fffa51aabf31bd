"""Waits at the end of a flow until its background artifacts are in the UI."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flows import attention_artifact
from saga.prefect.takeover import wait_for_artifacts


@asynccontextmanager
async def artifacts_shown() -> AsyncIterator[None]:
    """Waits after its body until the background artifacts (takeovers, manual review) are in the UI."""
    yield
    await wait_for_artifacts()
    await attention_artifact.settle()
