"""Forms filled in wrongly: no run begins with a number that makes no sense,
whichever deployment it is for."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.exceptions import ParameterTypeError
from prefect.utilities.callables import parameter_schema

from flows.process_pending_orders import process_pending_orders
from saga.wakeup import is_consumer_running
from shop.orders import intake
from shop.orders.outcomes import Outcome
from shop.orders.store import ORDERS
from tests.integration.world import World, an_order

HOME = Path(__file__).resolve().parents[2]
DEPLOYED = {each["name"]: each for each in yaml.safe_load((HOME / "prefect.yaml").read_text())["deployments"]}
LOOKED_AT_ELSEWHERE = {"process-order"}
"""An order is validated as an order, and rejected with its reasons."""
NUMBERS: dict[tuple[str, str], list[float]] = {
    ("process-pending-orders", "consumer_seconds"): [-1, -0.001, 86_401, 1e300],
    ("process-pending-orders", "batch_size"): [-1, 0, 5_001, 10**30, 0.5],
    ("reconcile-payments", "since_hours"): [-1, 0, 24 * 3660 + 1, 1e300],
    ("show-dashboard", "hours"): [-3, 0, 24 * 366 + 1, 1e300],
    ("receive-goods", "pieces"): [-1, 0, 1_000_000_001, 10**30, 1.5],
    ("optimize-confirmation", "demonstrations"): [-1, 0, 13, 10**30, 1.5],
    ("optimize-confirmation", "calls"): [-1, 0, 19, 5_001, 10**30, 20.5],
}
"""Wrong values of each number in the form of each deployment."""
GIVEN = {
    "cancel-order": {"order_id": "A", "reason": "r", "requested_by": "b", "confirmed": False},
    "retry-order": {"order_id": "A", "reason": "r", "requested_by": "b"},
    "resolve-order": {"order_id": "A", "resolution": "hold", "resolved_by": "b"},
    "accept-discrepancies": {"order_id": "A", "accepted_by": "b", "reason": "r"},
    "receive-goods": {"product_id": "P", "pieces": 1, "reference": "r", "received_by": "b"},
    "record-payment": {"order_id": "A", "amount": "1", "reference": "r", "recorded_by": "b"},
    "show-order": {"order_id": "A"},
}
"""What has to be filled in."""


def flow_of(deployment: str) -> Flow[Any, Any]:
    module, _, name = DEPLOYED[deployment]["entrypoint"].rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Flow)
    return found


def parts(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a parameter may be."""
    if "$ref" in schema:
        yield from parts(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    for kind in ("anyOf", "allOf", "oneOf"):
        for part in schema.get(kind, []):
            yield from parts(part, definitions)
    if "type" in schema:
        yield schema


def forms() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for deployment in DEPLOYED.keys() - LOOKED_AT_ELSEWHERE:
        schema = parameter_schema(flow_of(deployment))
        for name, properties in schema.properties.items():
            for part in parts(properties, schema.definitions):
                yield deployment, name, part


def test_every_number_and_text_in_a_form_has_bounds() -> None:
    """Prefect's server refuses what is beyond them, and the UI says so."""
    unbounded = []
    for deployment, name, part in forms():
        if part["type"] in {"number", "integer"}:
            low = {"minimum", "exclusiveMinimum"} & part.keys()
            bounded = low and {"maximum", "exclusiveMaximum"} & part.keys() and (deployment, name) in NUMBERS
        elif part["type"] == "string":
            bounded = {"maxLength", "enum", "const", "format"} & part.keys()
        else:
            bounded = part["type"] in {"boolean", "null"}
        if not bounded:
            unbounded.append(f"{deployment}: {name} {part}")
    assert not unbounded
    assert {
        (deployment, name) for deployment, name, part in forms() if part["type"] in {"number", "integer"}
    } == NUMBERS.keys()


@pytest.mark.parametrize(("deployment", "name"), NUMBERS, ids=" ".join)
def test_the_flow_refuses_a_number_beyond_its_bounds(deployment: str, name: str) -> None:
    """Also when it is called past the server."""
    flow = flow_of(deployment)
    for wrong in [*NUMBERS[deployment, name], math.inf, -math.inf, math.nan, "many", [1]]:
        with pytest.raises(ParameterTypeError, match=name):
            flow.validate_parameters({**GIVEN.get(deployment, {}), name: wrong})


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ParameterTypeError) as refused:
        process_pending_orders.validate_parameters({"consumer_seconds": -1, "batch_size": 0})
    assert "consumer_seconds" in str(refused.value)
    assert "batch_size" in str(refused.value)


@pytest.mark.parametrize("day", ["0001-01-01", "1999-12-31", "9999-12-31", "tomorrow", 10**12])
def test_the_day_of_a_report_is_one_that_can_be(day: object) -> None:
    with pytest.raises(ParameterTypeError, match="day"):
        flow_of("daily-report").validate_parameters({"day": day})


async def test_a_consumer_that_was_asked_for_nonsense_ends_and_holds_nothing(
    saga: World, unique: str
) -> None:
    order_id = f"FORM-{unique}"
    intake.submit([an_order(order_id)])
    for wrong in ({"batch_size": -1, "consumer_seconds": 0}, {"batch_size": 0}, {"consumer_seconds": -1}):
        state = await process_pending_orders(**wrong, return_state=True)  # type: ignore[call-overload]
        assert state.is_failed()
        with pytest.raises(ParameterTypeError):
            await state.result()
    assert saga.sql("SELECT 1 FROM lease") == []
    assert not is_consumer_running(ORDERS)
    await process_pending_orders(batch_size=1, consumer_seconds=0)
    assert saga.order(order_id).outcome == Outcome.COMPLETED
    assert saga.charges(order_id) == 1
