"""What a flow that worked on orders does at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from flows import attention_artifact
from saga.prefect.takeover import wait_for_artifacts


@asynccontextmanager
async def artifacts_shown() -> AsyncIterator[None]:
    """After its body, waits until the artifacts that were made beside the work (takeovers, manual review) are in the UI."""
    yield
    await wait_for_artifacts()
    await attention_artifact.settle()
