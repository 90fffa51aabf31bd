"""Prefect automations: reads `deployments/automations.yaml`, and registers it for `order-saga setup` and
`make run`. Those that only start a deployment are its triggers, in `deployments/prefect.yaml`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from deployments.setup.server import Change, Item

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import Automation, AutomationCore

FILE = Path(__file__).with_name("automations.yaml")


def ensure_automations(*, apply: bool = True) -> list[Item]:
    """Creates or updates the automations on the server; `apply` false: only compares."""
    from prefect.client.orchestration import get_client

    items = []
    with get_client(sync_client=True) as client:
        for wanted in automations():
            known = client.read_automations_by_name(wanted.name)
            change = Change.UNCHANGED
            if not known:
                change = Change.CREATED if apply else Change.MISSING
            elif content_of(known[0]) != content_of(wanted):
                change = Change.UPDATED if apply else Change.DIFFERS
            match change:
                case Change.CREATED:
                    client.create_automation(wanted)
                case Change.UPDATED:
                    client.update_automation(known[0].id, wanted)
            items.append(Item("automation", wanted.name, change))
    return items


def automations(file: Path = FILE) -> Iterator[AutomationCore]:
    """Reads the file. Raises pydantic's ValidationError for an invalid automation."""
    from prefect.events.schemas.automations import AutomationCore

    for each in yaml.safe_load(file.read_text(encoding="utf-8"))["automations"]:
        yield AutomationCore.model_validate(each)


def triggers(client: SyncPrefectClient, deployments: Iterable[Mapping[str, Any]]) -> list[Automation]:
    """Returns the server's automations that have the names of triggers of these deployments, which are
    described as in `prefect.yaml`. (The server does not show which automation is a trigger.)"""
    names = [each["name"] for deployment in deployments for each in deployment.get("triggers", ())]
    if not names:
        return []
    from prefect.events.filters import AutomationFilter, AutomationFilterName

    return client.read_automations(automations=AutomationFilter(name=AutomationFilterName(any_=names)))


def remove_triggers(client: SyncPrefectClient, deployments: Iterable[Mapping[str, Any]]) -> None:
    """Removes these automations, before `prefect deploy` creates them. It removes those that it has created
    itself, but none of an earlier version of this project, which were no triggers."""
    for automation in triggers(client, deployments):
        client.delete_automation(automation.id)


def content_of(automation: AutomationCore) -> dict[str, Any]:
    """Returns the automation's content without what the server adds."""
    from prefect.events.schemas.automations import AutomationCore

    return automation.model_dump(include=set(AutomationCore.model_fields) - {"owner_resource"})
