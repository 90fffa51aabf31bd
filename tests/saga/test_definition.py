"""A table of steps that cannot keep its promise is refused when it is defined,
with everything that is wrong with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from saga.definition import Kind, Saga, SagaDefinitionError, Step


async def act(work: Any) -> None:
    """Does nothing."""


def step(
    name: str,
    kind: Kind,
    *,
    undo: bool | None = None,
    time_limit: float = 1,
    retries: int = 0,
    undo_retries: int = 0,
) -> Step:
    has_undo = kind is Kind.COMPENSATABLE if undo is None else undo
    return Step(act, act if has_undo else None, kind, time_limit, retries, undo_retries, name=name)


READ, RESERVE = step("read", Kind.READ_ONLY), step("reserve", Kind.COMPENSATABLE)
CHARGE, SHIP, NOTIFY = (
    step("charge", Kind.COMPENSATABLE),
    step("ship", Kind.PIVOT),
    step("notify", Kind.RETRIABLE),
)
LATER_SHIP = replace(SHIP, name="ship later")


def problems(*steps: Step) -> list[str]:
    with pytest.raises(SagaDefinitionError) as error:
        Saga(*steps)
    return str(error.value).split("; ")


def test_a_good_table() -> None:
    saga = Saga(READ, RESERVE, CHARGE, SHIP, NOTIFY)
    assert [s.name for s in saga] == ["read", "reserve", "charge", "ship", "notify"]
    assert saga["charge"] is CHARGE
    assert saga.pivot == "ship"
    assert [s.name for s in saga if saga.is_past_pivot(s.name)] == ["notify"]


def test_the_smallest_table() -> None:
    assert Saga(SHIP).pivot == "ship"


def test_a_pivot_may_define_its_return() -> None:
    assert Saga(step("ship", Kind.PIVOT, undo=True))["ship"].undo is act


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ([], "there must be exactly one pivot, there are 0"),
        ([READ, RESERVE], "there must be exactly one pivot, there are 0"),
        ([SHIP, LATER_SHIP], "there must be exactly one pivot, there are 2"),
        ([RESERVE, RESERVE, SHIP], "reserve is in the table 2 times"),
        (
            [step("charge", Kind.COMPENSATABLE, undo=False), SHIP],
            "charge is compensatable and has no compensation",
        ),
        (
            [step("read", Kind.READ_ONLY, undo=True), SHIP],
            "read is read-only and has a compensation, which would never run",
        ),
        (
            [SHIP, step("notify", Kind.RETRIABLE, undo=True)],
            "notify is retriable and has a compensation, which would never run",
        ),
        (
            [SHIP, CHARGE],
            "charge is compensatable and comes after the pivot, where only retriable steps may be",
        ),
        ([SHIP, READ], "read is read-only and comes after the pivot, where only retriable steps may be"),
        ([NOTIFY, SHIP], "notify is retriable and comes before the pivot"),
        ([replace(READ, time_limit=0), SHIP], "read needs a time limit above 0 and retries of 0 or more"),
        ([replace(READ, time_limit=-1), SHIP], "read needs a time limit above 0 and retries of 0 or more"),
        ([replace(READ, retries=-1), SHIP], "read needs a time limit above 0 and retries of 0 or more"),
        (
            [replace(RESERVE, undo_retries=-1), SHIP],
            "reserve needs a time limit above 0 and retries of 0 or more",
        ),
    ],
)
def test_each_rule(steps: list[Step], problem: str) -> None:
    found = problems(*steps)
    assert found == [problem]


def test_all_problems_at_once() -> None:
    found = problems(
        NOTIFY,
        step("reserve", Kind.COMPENSATABLE, undo=False),
        step("read", Kind.READ_ONLY, undo=True),
        SHIP,
        replace(CHARGE, retries=-1),
        Step(act, None, Kind.RETRIABLE, 1, 0, name="read"),
    )
    assert set(found) == {
        "read is in the table 2 times",
        "notify is retriable and comes before the pivot",
        "reserve is compensatable and has no compensation",
        "read is read-only and has a compensation, which would never run",
        "charge is compensatable and comes after the pivot, where only retriable steps may be",
        "charge needs a time limit above 0 and retries of 0 or more",
    }


def test_a_step_is_found_only_by_its_name() -> None:
    with pytest.raises(KeyError):
        Saga(SHIP)["notify"]
