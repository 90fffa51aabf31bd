"""The automations as data: complete, and of names that there are."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID, uuid4

import pytest
import yaml
from prefect.events.schemas.automations import EventTrigger
from pydantic import ValidationError

from deployments.automations import FILE, automations
from flows.states import NAMES
from tasks.tell_alerts import CLEARED, RAISED

DEPLOYED = {
    f"{each['entrypoint'].rpartition('.')[2].replace('_', '-')}/{each['name']}": uuid4()
    for each in yaml.safe_load((FILE.parent.parent / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
}


def found(name: str) -> UUID | None:
    return uuid4() if name == "webhook/order-alerts" else None


def test_each_is_one_that_prefect_takes_and_starts_what_is_deployed() -> None:
    wanted = dict(automations(DEPLOYED.__getitem__, found))
    assert len(wanted) == 4
    assert all(wanted.values())


def test_what_needs_a_block_is_left_out_without_it() -> None:
    wanted = dict(automations(DEPLOYED.__getitem__, lambda _: None))
    assert [name for name, each in wanted.items() if each is None] == ["Alerts are posted by the Prefect server"]


def test_every_name_that_a_run_ends_in_is_told() -> None:
    silent = dict(automations(DEPLOYED.__getitem__, found))["Runs that fell silent have crashed"]
    assert silent is not None
    assert isinstance(silent.trigger, EventTrigger)
    ends = {f"prefect.flow-run.{name}" for name in (*NAMES.values(), "Failed", "Crashed", "Cancelled", "Cancelling")}
    assert silent.trigger.expect == {"prefect.flow-run.heartbeat", *ends}
    assert silent.trigger.within.total_seconds() == 90


def test_the_alerts_events_are_those_that_are_emitted() -> None:
    told = dict(automations(DEPLOYED.__getitem__, found))["People are told of alerts"]
    assert told is not None
    assert isinstance(told.trigger, EventTrigger)
    assert told.trigger.expect == {RAISED, CLEARED}


def test_what_is_no_automation_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("automations: [{name: x, trigger: {type: event, posture: Sometimes}, actions: []}]")
    with pytest.raises(ValidationError):
        list(automations(DEPLOYED.__getitem__, found, file))
