"""Everything on a Prefect server: work pool, queues, deployments, schedules, automations."""

from __future__ import annotations

from deployments.automations import ensure_automations
from deployments.setup.former import remove_former
from deployments.setup.item import Item
from deployments.setup.registered import ensure_deployments
from deployments.setup.server import ensure_queues, ensure_work_pool


def ensure_all(*, apply: bool) -> list[Item]:
    """Creates what is missing and corrects what differs; `apply` false: only reports. Idempotent.

    Raises `DeployError`, and the Prefect client's errors if the server does not answer.
    """
    return [
        *ensure_work_pool(apply=apply),
        *ensure_queues(apply=apply),
        *remove_former(apply=apply),
        *ensure_deployments(apply=apply),
        *ensure_automations(apply=apply),
    ]
