"""The shop as its people use it: in the Prefect UI of `make run`, with the mouse and the keyboard."""

from __future__ import annotations

import uuid

import pytest

from tests.ui.person import Person

pytestmark = pytest.mark.slow  # `make test-ui`


@pytest.fixture
def order_id() -> str:
    return f"ORDER-UI-{uuid.uuid4().hex[:8].upper()}"


def send(person: Person, order_id: str, **fields: str) -> str:
    """Fills in the form of process-order, which has an example, and runs it."""
    person.open_form("process-order")
    person.fill(Id=order_id, **fields)
    return person.submit(f"order {order_id}")


def test_an_order_is_filled_in_and_completes(person: Person, order_id: str) -> None:
    person.open_form("process-order")
    person.fill(Id=order_id)
    person.picture("ui-form")
    run = person.submit(f"order {order_id}")
    person.look_at_run(run)
    person.sees_state("Completed")
    person.sees_task(f"notify_customer {order_id}")
    person.picture("ui-completed")


def test_a_declined_card_is_compensated_and_the_undo_can_be_seen(person: Person, order_id: str) -> None:
    run = send(person, order_id, **{"Card Last4 (Optional)": "0000"})
    person.look_at_run(run)
    person.sees_state("Compensated")
    person.sees_task(f"release_inventory {order_id}")


def test_a_refused_parcel_is_refunded_and_released(person: Person, order_id: str) -> None:
    run = send(person, order_id, **{"Country (Optional)": "AQ"})
    person.look_at_run(run)
    person.sees_state("Compensated")
    person.sees_task(f"refund_payment {order_id}")
    person.sees_task(f"release_inventory {order_id}")
    person.picture("ui-compensated")


def test_an_order_is_resolved_on_the_desk(person: Person, order_id: str) -> None:
    run = send(person, order_id, **{"Card Last4 (Optional)": "0259", "Country (Optional)": "AQ"})
    person.look_at_run(run)
    person.sees_state("NeedsAttention")
    person.open_form("resolve-order")
    person.fill(order_id=order_id, resolved_by="ann")
    person.choose("resolution", "refunded_by_hand")
    person.say("reference", "transfer 4711")
    person.picture("ui-desk")
    person.look_at_run(person.submit(f"resolve refunded_by_hand {order_id}"))
    person.sees_state("Compensated")
