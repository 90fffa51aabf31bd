"""The automations and triggers as data: complete, and of names that there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.events import DeploymentEventTrigger, DeploymentTriggerTypes
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from pydantic import TypeAdapter, ValidationError

from deployments.automations import automations
from deployments.prefect_file import described
from flows.housekeeping import housekeeping
from flows.runs import NAMES
from tasks.alerts import CLEARED, RAISED


def by_name() -> dict[str, AutomationCore]:
    return {each.name: each for each in automations()}


def triggers() -> dict[str, Any]:
    """The triggers of the deployments, as Prefect reads them."""
    return {
        f"{deployment['name']}: {each['name']}": TypeAdapter[Any](DeploymentTriggerTypes).validate_python(
            each
        )
        for deployment in described()["deployments"]
        for each in deployment.get("triggers", ())
    }


def test_every_name_that_a_run_ends_in_is_listed() -> None:
    silent = by_name()["Runs that fell silent have crashed"]
    assert isinstance(silent.trigger, EventTrigger)
    ends = {
        f"prefect.flow-run.{name}"
        for name in (*NAMES.values(), "Failed", "Crashed", "Cancelled", "Cancelling")
    }
    assert silent.trigger.expect == {"prefect.flow-run.heartbeat", *ends}
    assert silent.trigger.within.total_seconds() == 90


def test_the_alerts_events_are_those_that_are_emitted() -> None:
    sending = triggers()["notify-alert: Alerts are sent"]
    assert isinstance(sending, DeploymentEventTrigger)
    assert sending.expect == {RAISED, CLEARED}


def test_recovery_is_started_with_parameters_that_it_has() -> None:
    recovering = triggers()["housekeeping: Orders of a crashed run are recovered"]
    assert recovering.parameters.keys() <= housekeeping.parameters.properties.keys()


def test_each_name_is_used_once() -> None:
    names = [*by_name(), *(name.partition(": ")[2] for name in triggers())]
    assert len(names) == len(set(names)) >= 3


def test_what_is_no_automation_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("automations: [{name: x, trigger: {type: event, posture: Sometimes}, actions: []}]")
    with pytest.raises(ValidationError):
        list(automations(file))
