"""Prefect automations: reads `deployments/automations.yaml`, and registers it for `order-saga setup` and
`make run`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import yaml

from deployments.setup.item import Change, Item

if TYPE_CHECKING:
    from prefect.events.schemas.automations import AutomationCore

FILE = Path(__file__).with_name("automations.yaml")


def ensure_automations(file: Path = FILE, *, apply: bool = True) -> list[Item]:
    """Creates or updates the automations on the server; `apply` false: only compares.

    Raises `prefect.exceptions.ObjectNotFound` if a deployment that one of them starts does not exist.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    items = []
    with get_client(sync_client=True) as client:

        def deployment_id(name: str) -> UUID:
            try:
                return client.read_deployment_by_name(name).id
            except ObjectNotFound:
                if apply:
                    raise
                return uuid4()  # reported as a missing deployment

        for wanted in automations(deployment_id, file):
            known = client.read_automations_by_name(wanted.name)
            change = Change.UNCHANGED
            if not known:
                change = Change.CREATED if apply else Change.MISSING
            elif _content(known[0]) != _content(wanted):
                change = Change.UPDATED if apply else Change.DIFFERS
            match change:
                case Change.CREATED:
                    client.create_automation(wanted)
                case Change.UPDATED:
                    client.update_automation(known[0].id, wanted)
            items.append(Item("automation", wanted.name, change))
    return items


def _content(automation: AutomationCore) -> dict[str, Any]:
    """Returns the automation's content without what the server adds."""
    from prefect.events.schemas.automations import AutomationCore

    return automation.model_dump(include=set(AutomationCore.model_fields) - {"owner_resource"})


def automations(deployment_id: Callable[[str], UUID], file: Path = FILE) -> Iterator[AutomationCore]:
    """Reads the file. `deployment_id` resolves the name of a deployment. Raises pydantic's ValidationError
    for an invalid automation."""
    from prefect.events.schemas.automations import AutomationCore

    for each in yaml.safe_load(file.read_text(encoding="utf-8"))["automations"]:
        actions = [
            {**action, "deployment_id": deployment_id(action.pop("deployment"))}
            if "deployment" in action
            else action
            for action in each["actions"]
        ]
        yield AutomationCore.model_validate({**each, "actions": actions})
