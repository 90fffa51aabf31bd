"""`prefect deploy --all`, with what prefect.yaml takes from the environment, and that the server then plans
the runs of the schedules."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import PrefectHTTPStatusError

from deployments import prefect_file
from tests.waiting import until

HOME = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
async def deployed(prefect_api: Any) -> AsyncIterator[dict[str, Any]]:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    run = subprocess.run(
        command,
        cwd=HOME,
        env={**os.environ, **prefect_file.values(HOME)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=180,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    async with get_client() as client:
        made = await client.read_deployments()
        yield {deployment.name: deployment for deployment in made}
        for deployment in made:
            await client.delete_deployment(deployment.id)


EVERY = {
    "process-pending-orders": 900,
    "housekeeping": 300,
}
"""Seconds."""
DAILY = {"reconcile-payments": time(3, 17), "purge": time(4, 43), "daily-report": time(0, 20)}
"""UTC."""


async def test_the_schedules_are_planned_by_the_server(deployed: dict[str, Any]) -> None:
    """Each of them, at its times; and no other deployment runs by itself."""
    scheduled = {
        name: d
        for name, d in deployed.items()
        if not d.paused and any(schedule.active for schedule in d.schedules)
    }
    assert set(scheduled) == EVERY.keys() | DAILY.keys()
    runs: dict[str, list[datetime]] = {}

    async def planned() -> bool:
        async with get_client() as client:
            for name, deployment in scheduled.items():
                mine = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
                found = await client.read_flow_runs(
                    deployment_filter=mine, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=3
                )
                runs[name] = [
                    run.expected_start_time for run in found if run.auto_scheduled and run.expected_start_time
                ]
        return all(len(times) == 3 for times in runs.values())

    await until(planned, 60, "three runs of each that the scheduler plans")
    pauses = {
        name: {round((later - earlier).total_seconds()) for earlier, later in pairwise(times)}
        for name, times in runs.items()
    }
    assert pauses == {name: {pause} for name, pause in {**EVERY, **dict.fromkeys(DAILY, 86_400)}.items()}
    assert {name: {when.astimezone(UTC).time() for when in runs[name]} for name in DAILY} == {
        name: {at} for name, at in DAILY.items()
    }


async def test_the_form_of_an_order_is_filled_in_and_still_required(deployed: dict[str, Any]) -> None:
    schema = deployed["process-order"].parameter_openapi_schema
    assert schema["required"] == ["order"]
    assert schema["properties"]["order"]["default"]["items"]
    fields = schema["definitions"]["Order"]["properties"]
    assert [name for name, _ in sorted(fields.items(), key=lambda field: field[1]["position"])][:3] == [
        "id",
        "customer_id",
        "items",
    ]


@pytest.mark.slow
async def test_the_server_refuses_numbers_that_make_no_sense(deployed: dict[str, Any]) -> None:
    """In the UI's forms and over the API: such a run is not even made."""
    wrong = {
        "process-pending-orders": [
            {"batch_size": -1, "consumer_seconds": 0},
            {"batch_size": 10**6},
            {"consumer_seconds": -1},
            {"consumer_seconds": 1e9},
        ],
        "reconcile-payments": [{"since_hours": 0}, {"since_hours": 1e9}],
        "show-dashboard": [{"hours": -1}, {"hours": 1e9}],
        "optimize-confirmation": [{"demonstrations": 0}, {"calls": 10**9}],
    }
    async with get_client() as client:
        for name, forms in wrong.items():
            for parameters in forms:
                with pytest.raises(PrefectHTTPStatusError) as refused:
                    await client.create_flow_run_from_deployment(deployed[name].id, parameters=parameters)
                assert refused.value.response.status_code == 409, parameters
            mine = DeploymentFilter(id=DeploymentFilterId(any_=[deployed[name].id]))
            found = await client.read_flow_runs(deployment_filter=mine)
            assert not [run for run in found if not run.auto_scheduled]
