"""What a run has left in the Prefect UI."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact

from shop.orders.page.page import page_key


async def artifacts(key: str, run: UUID | str | None = None) -> list[Artifact]:
    """With this key, of this run, the newest last."""
    of_run = ArtifactFilterFlowRunId(any_=[UUID(str(run))]) if run else None
    async with get_client() as client:
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key]), flow_run_id=of_run)
        )
    return sorted(found, key=lambda artifact: artifact.created or datetime.min.replace(tzinfo=UTC))


async def page_of(order_id: str, run: UUID | str | None = None) -> str:
    (page,) = await artifacts(page_key(order_id), run)
    return str(page.data)
