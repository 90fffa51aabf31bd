"""The automations as data: complete, and of names that there are."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from pydantic import ValidationError

from deployments.automations import FILE, automations
from flows.states import NAMES
from tasks.send_alerts import CLEARED, RAISED

DEPLOYED = {
    f"{each['entrypoint'].rpartition('.')[2].replace('_', '-')}/{each['name']}": uuid4()
    for each in yaml.safe_load((FILE.parent.parent / "prefect.yaml").read_text(encoding="utf-8"))[
        "deployments"
    ]
}


def test_each_is_one_that_prefect_takes_and_starts_what_is_deployed() -> None:
    assert len(by_name()) == 3


def by_name() -> dict[str, AutomationCore]:
    return {each.name: each for each in automations(DEPLOYED.__getitem__)}


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
    sending = by_name()["Alerts are sent"]
    assert isinstance(sending.trigger, EventTrigger)
    assert sending.trigger.expect == {RAISED, CLEARED}


def test_what_is_no_automation_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("automations: [{name: x, trigger: {type: event, posture: Sometimes}, actions: []}]")
    with pytest.raises(ValidationError):
        list(automations(DEPLOYED.__getitem__, file))
