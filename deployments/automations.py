"""What Prefect does by itself when a run dies: `python -m deployments.automations` puts it on the server that PREFECT_API_URL names.

`make run` does this for its own server. Harmless when done again: an automation of the same name is brought up to date.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flows.states import NAMES

if TYPE_CHECKING:
    from prefect.events.schemas.automations import AutomationCore

WORKING = ("process-order", "process-pending-orders")
"""The flows that have orders in hand."""
RECOVERY = "recover-orders/recover-orders"
_HEARTBEAT = "prefect.flow-run.heartbeat"
_SILENT_SECONDS = 90
"""Three heartbeats; their pause is set in prefect.yaml (PREFECT_FLOWS_HEARTBEAT_FREQUENCY), and 30 seconds is the shortest."""


def ensure_automations() -> list[str]:
    """Puts the automations on the server. Returns their names. Raises `prefect.exceptions.ObjectNotFound` if `recover-orders` is not
    deployed there."""
    from prefect.client.orchestration import get_client

    names = []
    with get_client(sync_client=True) as client:
        recovery = client.read_deployment_by_name(RECOVERY).id
        for wanted in automations(recovery):
            known = client.read_automations_by_name(wanted.name)
            if known:
                client.update_automation(known[0].id, wanted)
            else:
                client.create_automation(wanted)
            names.append(wanted.name)
    return names


def automations(recovery: Any) -> Iterator[AutomationCore]:
    """What is wanted; `recovery` is the id of the deployment `recover-orders`."""
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState, RunDeployment
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    ours = ResourceSpecification({"prefect.resource.role": "flow", "prefect.resource.name": list(WORKING)})
    runs = ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"})
    crashed_run = {"__prefect_kind": "jinja", "template": "{{ flow_run.id }}"}
    yield AutomationCore(
        name="Orders of a crashed run are recovered",
        description="Recovery starts when a run crashes, and takes its orders over as soon as its lease is over.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Crashed"}, match=runs, match_related=ours, for_each={"prefect.resource.id"}, posture=Posture.Reactive
        ),
        actions=[RunDeployment(deployment_id=recovery, parameters={"crashed_run": crashed_run})],
    )
    # Events are named by the state's own name, so every name that a run of ours can end in has to be told.
    ends = {f"prefect.flow-run.{name}" for name in (*NAMES.values(), "Failed", "Crashed", "Cancelled", "Cancelling")}
    yield AutomationCore(
        name="Runs that fell silent have crashed",
        description=f"A run whose heartbeat has not been heard for {_SILENT_SECONDS} seconds died with its worker.",
        trigger=EventTrigger(
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *ends},
            match=runs,
            match_related=ours,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            within=timedelta(seconds=_SILENT_SECONDS),
        ),
        actions=[
            ChangeFlowRunState(state=StateType.CRASHED, name="Crashed", message="Not heard of any more: its process, or its machine, died.")
        ],
    )


def main() -> None:
    """Raises SystemExit with a line that says what was wrong, and what to do."""
    import httpx
    from prefect.exceptions import ObjectNotFound

    try:
        names = ensure_automations()
    except ObjectNotFound:
        raise SystemExit(f"{RECOVERY} is not deployed there: first prefect --no-prompt deploy --all") from None
    except (httpx.HTTPError, RuntimeError) as error:
        raise SystemExit(f"the Prefect server cannot be used, see PREFECT_API_URL: {error}") from None
    sys.stdout.write("".join(f"on the server: {name}\n" for name in names))


if __name__ == "__main__":
    main()
