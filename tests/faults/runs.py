"""Flow runs as the Prefect server has them."""

from __future__ import annotations

from typing import Any

import httpx

from deployments.stack.prefect_server import PrefectServer


def runs_of(server: PrefectServer, deployment: str) -> list[dict[str, Any]]:
    """All runs of the deployment of this name."""
    body = {"deployments": {"name": {"any_": [deployment]}}, "limit": 200}
    answer = httpx.post(f"{server.api_url}/flow_runs/filter", json=body, timeout=20)
    found: list[dict[str, Any]] = answer.raise_for_status().json()
    return found


def consumers_of(server: PrefectServer) -> list[dict[str, Any]]:
    return runs_of(server, "process-pending-orders")
