"""Everything on a Prefect server: work pool, queues, automations, the deployments of prefect.yaml with their
schedules and limits; and what earlier versions have left there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import yaml

from deployments.automations import content_of, ensure_automations, remove_triggers, triggers
from deployments.prefect_file import FILE, described, filled, values
from deployments.setup.server import Change, Item, client, ensure_queues, ensure_work_pool
from shop.runtime.home import HOME

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import DeploymentSchedule
    from prefect.client.schemas.responses import DeploymentResponse

_DEPLOY_SECONDS = 300
_MISSING = "missing"


_FORMER_DEPLOYMENTS = (
    "recover-orders/recover-orders",
    "retry-compensations/retry-compensations",
    "handle-payment-events/handle-payment-events",
    "watch-orders/watch-orders",
)
"""Their work is done by consumers and by `housekeeping`."""
_FORMER_SCHEDULES = {"show-dashboard/show-dashboard": {"refresh"}}
"""Deployment to the slugs of its former schedules, which `prefect deploy` keeps."""


class DeployError(Exception):
    """`prefect deploy` failed, or its result differs from prefect.yaml."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A deployment as prefect.yaml describes it."""

    name: str
    """flow/deployment."""
    values: Mapping[str, Any]
    """The values to compare with the server. People see the names in a table."""
    described: Mapping[str, Any]
    """Its part of prefect.yaml."""


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


def ensure_deployments(*, apply: bool = True) -> list[Item]:
    """Registers deployments that are missing or differ. Raises `DeployError`. Keeps other deployments and
    schedules on the server, and whether a schedule is active."""
    every = list(_wanted())
    found = {each.name: _differences(each) for each in every}
    changed = [each for each in every if found[each.name]]
    if apply and changed:
        with client() as server:
            remove_triggers(server, [each.described for each in changed])
            _name_added_schedules(server, [each.name for each in changed])
        _deploy([each.name for each in changed])
        if left := [f"{each.name} ({', '.join(fields)})" for each in every if (fields := _differences(each))]:
            raise DeployError(f"after prefect deploy these still differ from {FILE.name}: {', '.join(left)}")
    return [Item("deployment", each.name, *_change(found[each.name], apply=apply)) for each in every]


def _change(differences: list[str], *, apply: bool) -> tuple[Change, str]:
    if not differences:
        return Change.UNCHANGED, ""
    if differences == [_MISSING]:
        return (Change.CREATED if apply else Change.MISSING), ""
    return (Change.UPDATED if apply else Change.DIFFERS), ", ".join(differences)


def _wanted() -> Iterator[Wanted]:
    """Reads the file. Loads the flows, because their parameters are compared too."""
    from prefect import Flow
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    content = filled(described(), values())
    for each in content["deployments"]:
        flow: Flow[Any, Any] = load_flow_from_entrypoint(each["entrypoint"])
        limit, pool = each.get("concurrency_limit", {}), each["work_pool"]
        yield Wanted(
            f"{flow.name}/{each['name']}",
            {
                "version": each["version"],
                "description": each["description"],
                "entrypoint": each["entrypoint"],
                "tags": set(each["tags"]),
                "parameters": _without_empty(parameter_schema(flow).model_dump(mode="json")),
                "enforced parameters": each["enforce_parameter_schema"],
                "schedules": {_schedule(schedule) for schedule in each.get("schedules", [])},
                "concurrency limit": (
                    limit.get("limit"),
                    limit.get("collision_strategy"),
                    limit.get("grace_period_seconds"),
                ),
                "work queue": (pool["name"], pool["work_queue_name"]),
                "job variables": pool["job_variables"],
                "pull steps": content["pull"],
            },
            each,
        )


def _without_empty(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Removes an empty `required`, as the server does."""
    return {name: value for name, value in schema.items() if value}


def _schedule(described: Mapping[str, Any]) -> tuple[str, str]:
    what = described["cron"] if "cron" in described else f"every {described['interval']:g} s"
    return described["slug"], f"{what} {described.get('timezone', '')}".strip()


def _differences(each: Wanted) -> list[str]:
    """Returns the names of the values that differ on the server."""
    from prefect.exceptions import ObjectNotFound

    with client() as server:
        try:
            found = server.read_deployment_by_name(each.name)
        except ObjectNotFound:
            return [_MISSING]
        there = _values(found)
        # Not those that a person has added.
        there["schedules"] &= each.values["schedules"]
        differing = [name for name, value in each.values.items() if there[name] != value]
        return differing if _has_triggers(server, found.id, each) else [*differing, "triggers"]


def _has_triggers(server: SyncPrefectClient, deployment_id: UUID, each: Wanted) -> bool:
    """Returns whether the server has exactly the wanted automations of the deployment."""
    from prefect.events import DeploymentTriggerTypes
    from pydantic import TypeAdapter

    wanted = []
    for given in each.described.get("triggers", ()):
        trigger = TypeAdapter[Any](DeploymentTriggerTypes).validate_python(given)
        trigger.set_deployment_id(deployment_id)
        wanted.append(content_of(trigger.as_automation()))
    there = [content_of(found) for found in triggers(server, [each.described])]
    return sorted(there, key=_name) == sorted(wanted, key=_name)


_name = itemgetter("name")


def _values(there: DeploymentResponse) -> dict[str, Any]:
    options = there.concurrency_options
    limit = there.global_concurrency_limit
    return {
        "version": there.version,
        "description": there.description,
        "entrypoint": there.entrypoint,
        "tags": set(there.tags),
        "parameters": _without_empty(there.parameter_openapi_schema or {}),
        "enforced parameters": there.enforce_parameter_schema,
        "schedules": {_registered_schedule(schedule) for schedule in there.schedules},
        "concurrency limit": (
            limit.limit if limit else None,
            options.collision_strategy if options else None,
            options.grace_period_seconds if options else None,
        ),
        "work queue": (there.work_pool_name, there.work_queue_name),
        "job variables": there.job_variables,
        "pull steps": there.pull_steps or [],
    }


def _registered_schedule(schedule: DeploymentSchedule) -> tuple[str, str]:
    planned: Any = schedule.schedule
    if (cron := getattr(planned, "cron", None)) is not None:
        return schedule.slug or "", f"{cron} {planned.timezone or ''}".strip()
    return schedule.slug or "", f"every {planned.interval.total_seconds():g} s"


def _name_added_schedules(server: SyncPrefectClient, names: list[str]) -> None:
    """Gives slugs to the schedules that people have added: `prefect deploy` replaces all schedules of a
    deployment if one of them has none."""
    from prefect.exceptions import ObjectNotFound

    for name in names:
        with suppress(ObjectNotFound):
            found = server.read_deployment_by_name(name)
            for schedule in found.schedules:
                if not schedule.slug:
                    server.update_deployment_schedule(found.id, schedule.id, slug=f"added-{schedule.id}")


def _deploy(names: list[str]) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy"]
    command += [part for name in names for part in ("--name", name.rpartition("/")[2])]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as deployed:
        yaml.safe_dump(described(), deployed, sort_keys=False)
        deployed.flush()
        try:
            done = subprocess.run(
                [*command, "--prefect-file", deployed.name],
                cwd=HOME,
                env={**os.environ, **values(), "PREFECT_CLI_WRAP_LINES": "false"},
                capture_output=True,
                text=True,
                timeout=_DEPLOY_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DeployError(f"prefect deploy did not end within {_DEPLOY_SECONDS} s") from None
    if done.returncode != 0:
        raise DeployError(f"prefect deploy failed:\n{(done.stdout + done.stderr)[-4000:]}")


def remove_former(*, apply: bool) -> list[Item]:
    """Removes deployments and schedules of earlier versions, whose runs would fail now; `apply` false: only
    reports them. Idempotent. Raises the Prefect client's errors."""
    from prefect.exceptions import ObjectNotFound

    change, why = (Change.REMOVED if apply else Change.SURPLUS), "of an earlier version"
    items = []
    with client() as server:
        for name in (*_FORMER_DEPLOYMENTS, *_FORMER_SCHEDULES):
            try:
                found = server.read_deployment_by_name(name)
            except ObjectNotFound:
                continue
            if name in _FORMER_DEPLOYMENTS:
                items.append(Item("deployment", name, change, why))
                if apply:
                    server.delete_deployment(found.id)
                continue
            for schedule in found.schedules:
                if schedule.slug in _FORMER_SCHEDULES[name]:
                    items.append(Item("schedule", f"{name}: {schedule.slug}", change, why))
                    if apply:
                        server.delete_deployment_schedule(found.id, schedule.id)
    return items
