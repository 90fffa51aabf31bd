"""Flow runs as the Prefect server has them."""

from __future__ import annotations

from typing import Any

import httpx

from deployments.local.prefect_server import PrefectServer


def runs_of(server: PrefectServer, deployment: str) -> list[dict[str, Any]]:
    """All runs of the deployment of this name."""
    body = {"deployments": {"name": {"any_": [deployment]}}, "limit": 200}
    answer = httpx.post(f"{server.api_url}/flow_runs/filter", auth=server.auth, json=body, timeout=20)
    found: list[dict[str, Any]] = answer.raise_for_status().json()
    return found


def consumers_of(server: PrefectServer) -> list[dict[str, Any]]:
    return runs_of(server, "process-pending-orders")


def start(
    server: PrefectServer,
    deployment: str,
    parameters: dict[str, Any] | None = None,
    state: dict[str, Any] | None = None,
) -> str:
    """Starts a run of the deployment, as the UI does,
    or makes one in this state; its id. Nothing is stored before."""
    found = (
        httpx.get(
            f"{server.api_url}/deployments/name/{deployment}/{deployment}", auth=server.auth, timeout=20
        )
        .raise_for_status()
        .json()
    )
    # As a run of another version of the form might have them: the server does not look at the parameters.
    body = {
        "parameters": parameters or {},
        "enforce_parameter_schema": False,
        **({"state": state} if state else {}),
    }
    made = httpx.post(
        f"{server.api_url}/deployments/{found['id']}/create_flow_run", auth=server.auth, json=body, timeout=20
    )
    return str(made.raise_for_status().json()["id"])


def set_state(server: PrefectServer, run_id: str, kind: str, name: str | None = None, **more: Any) -> None:
    """As the UI does; past the rules, so that a run gets there from anywhere."""
    body = {"state": {"type": kind, "name": name or kind.title(), **more}, "force": True}
    httpx.post(
        f"{server.api_url}/flow_runs/{run_id}/set_state", auth=server.auth, json=body, timeout=20
    ).raise_for_status()


def run(server: PrefectServer, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (
        httpx.get(f"{server.api_url}/flow_runs/{run_id}", auth=server.auth, timeout=20)
        .raise_for_status()
        .json()
    )
    return found


def states(server: PrefectServer, run_ids: list[str]) -> list[dict[str, Any]]:
    """The states of these runs, all as they are at one moment."""
    body = {"flow_runs": {"id": {"any_": run_ids}}, "limit": 200}
    answer = httpx.post(f"{server.api_url}/flow_runs/filter", auth=server.auth, json=body, timeout=20)
    return [each["state"] for each in answer.raise_for_status().json()]


def forget_runs(server: PrefectServer, *deployments: str) -> None:
    """Deletes what other tests have left of them."""
    for deployment in deployments:
        for each in runs_of(server, deployment):
            httpx.delete(
                f"{server.api_url}/flow_runs/{each['id']}", auth=server.auth, timeout=20
            ).raise_for_status()
