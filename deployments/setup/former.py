"""Removes what earlier versions registered on a Prefect server, and what would start runs that fail now."""

from __future__ import annotations

from deployments.setup.item import Change, Item
from deployments.setup.server import client

_DEPLOYMENTS = (
    "recover-orders/recover-orders",
    "retry-compensations/retry-compensations",
    "handle-payment-events/handle-payment-events",
    "watch-orders/watch-orders",
)
"""Their work is done by consumers and by `housekeeping`."""
_WHY = "of an earlier version"
_SCHEDULES = {"show-dashboard/show-dashboard": {"refresh"}}
"""Deployment to the slugs of its former schedules, which `prefect deploy` keeps."""


def remove_former(*, apply: bool) -> list[Item]:
    """Removes former deployments and schedules; `apply` false: only reports them. Idempotent. Raises the
    Prefect client's errors."""
    from prefect.exceptions import ObjectNotFound

    change = Change.REMOVED if apply else Change.SURPLUS
    items = []
    with client() as server:
        for name in (*_DEPLOYMENTS, *_SCHEDULES):
            try:
                found = server.read_deployment_by_name(name)
            except ObjectNotFound:
                continue
            if name in _DEPLOYMENTS:
                items.append(Item("deployment", name, change, _WHY))
                if apply:
                    server.delete_deployment(found.id)
                continue
            for schedule in found.schedules:
                if schedule.slug in _SCHEDULES[name]:
                    items.append(Item("schedule", f"{name}: {schedule.slug}", change, _WHY))
                    if apply:
                        server.delete_deployment_schedule(found.id, schedule.id)
    return items
