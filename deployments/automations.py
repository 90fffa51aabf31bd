"""What Prefect does by itself: `python -m deployments.automations` puts `deployments/automations.yaml` on the server that PREFECT_API_URL
names.

`make run` does this for its own server. Harmless when done again: an automation of the same name is brought up to date.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from deployments.running import use_running_world

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.events.schemas.automations import AutomationCore

FILE = Path(__file__).with_name("automations.yaml")
Find = Callable[[str], "UUID | None"]
"""A name to its id; None: there is none of this name."""


def ensure_automations(file: Path = FILE) -> list[str]:
    """Puts the automations on the server. Returns their names. Raises `prefect.exceptions.ObjectNotFound` if a deployment that one of them
    starts is not there. One whose block is not there is left out, and taken away if it was there before."""
    from prefect.client.orchestration import get_client

    names = []
    with get_client(sync_client=True) as client:
        for name, wanted in automations(lambda name: client.read_deployment_by_name(name).id, _blocks(client), file):
            known = client.read_automations_by_name(name)
            if wanted is None:
                for each in known:
                    client.delete_automation(each.id)
                continue
            if known:
                client.update_automation(known[0].id, wanted)
            else:
                client.create_automation(wanted)
            names.append(name)
    return names


def automations(deployment: Find, block: Find, file: Path = FILE) -> Iterator[tuple[str, AutomationCore | None]]:
    """What the file says, by name; None for what needs a block that is not there. `deployment` and `block` find the ids. Raises
    pydantic's ValidationError for what is no automation."""
    from prefect.events.schemas.automations import AutomationCore

    for each in yaml.safe_load(file.read_text(encoding="utf-8"))["automations"]:
        actions = [_action(action, deployment, block) for action in each["actions"]]
        complete = [action for action in actions if action is not None]
        yield each["name"], AutomationCore.model_validate({**each, "actions": complete}) if len(complete) == len(actions) else None


def _action(action: Mapping[str, Any], deployment: Find, block: Find) -> dict[str, Any] | None:
    made = dict(action)
    if "deployment" in made:
        made["deployment_id"] = deployment(made.pop("deployment"))
    if "block" in made and (found := block(made.pop("block"))) is None:
        return None
    if "block" in action:
        made["block_document_id"] = found
    return made


def _blocks(client: SyncPrefectClient) -> Find:
    from prefect.exceptions import ObjectNotFound

    def find(name: str) -> UUID | None:
        kind, _, document = name.partition("/")
        try:
            return client.read_block_document_by_name(document, kind).id
        except ObjectNotFound:
            return None

    return find


def main() -> None:
    """Raises SystemExit with a line that says what was wrong, and what to do."""
    argparse.ArgumentParser(
        prog="python -m deployments.automations", description="Puts the automations on the Prefect server."
    ).parse_args()
    use_running_world()
    import httpx
    from prefect.exceptions import ObjectNotFound

    try:
        names = ensure_automations()
    except ObjectNotFound:
        raise SystemExit("what automations start is not deployed there: first prefect --no-prompt deploy --all") from None
    except (httpx.HTTPError, RuntimeError) as error:
        raise SystemExit(f"the Prefect server cannot be used, see PREFECT_API_URL: {error}") from None
    sys.stdout.write("".join(f"on the server: {name}\n" for name in names))


if __name__ == "__main__":
    main()
