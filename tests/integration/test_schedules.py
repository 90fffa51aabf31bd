"""`prefect deploy --all`, as a user types it, and that the server then plans the runs of the schedules."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

from tests.waiting import until

HOME = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
async def deployed(prefect_api: Any) -> AsyncIterator[dict[str, Any]]:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    run = subprocess.run(command, cwd=HOME, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=180, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    async with get_client() as client:
        made = await client.read_deployments()
        yield {deployment.name: deployment for deployment in made}
        for deployment in made:
            await client.delete_deployment(deployment.id)


async def test_the_schedules_are_planned_by_the_server(deployed: dict[str, Any]) -> None:
    scheduled = {deployment.id for deployment in deployed.values() if deployment.schedules}
    assert {"process-pending-orders", "recover-orders"} <= {d.name for d in deployed.values() if d.id in scheduled}

    async def planned() -> bool:
        async with get_client() as client:
            runs = [
                await client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[each])), limit=1)
                for each in scheduled
            ]
        return all(some and some[0].auto_scheduled for some in runs)

    await until(planned, 60, "runs that the scheduler plans")


async def test_the_form_of_an_order_is_filled_in_and_still_required(deployed: dict[str, Any]) -> None:
    schema = deployed["process-order"].parameter_openapi_schema
    assert schema["required"] == ["order"]
    assert schema["properties"]["order"]["default"]["items"]
    fields = schema["definitions"]["Order"]["properties"]
    assert [name for name, _ in sorted(fields.items(), key=lambda field: field[1]["position"])][:3] == ["id", "customer_id", "items"]
