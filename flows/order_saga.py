"""The order saga's definition. The flows run this table; diagrams and pages are generated from it.

To add a step, add a file in `tasks/` and a line here: see docs/how-to/add-a-step.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flows import attention_artifact
from saga.definition import Kind, Saga, Step
from saga.errors import RecordedFailure
from saga.instance import Instance
from saga.outcome import NEEDS_ATTENTION
from tasks.check_inventory import check_inventory, release_inventory
from tasks.fulfill_order import fulfill_order, return_shipment
from tasks.generate_confirmation import generate_confirmation
from tasks.notify_customer import notify_customer
from tasks.process_payment import process_payment, refund_payment
from tasks.validate_order import validate_order


def _show_manual_review(orders: Sequence[Instance], outcomes: Mapping[str, str]) -> None:
    """Refreshes the manual review artifact when an order has entered manual review, or may have left it."""
    if NEEDS_ATTENTION in outcomes.values() or any(
        isinstance(order.failure, RecordedFailure) for order in orders
    ):
        attention_artifact.changed()


# fmt: off
ORDER_SAGA = Saga(
    #    task                   compensation       kind                time limit   retries
    Step(validate_order,        None,              Kind.READ_ONLY,     30,          3),
    Step(check_inventory,       release_inventory, Kind.COMPENSATABLE, 45,          3),
    Step(process_payment,       refund_payment,    Kind.COMPENSATABLE, 60,          4),
    Step(generate_confirmation, None,              Kind.READ_ONLY,     60,          2),
    Step(fulfill_order,         return_shipment,   Kind.PIVOT,         150,         3),
    Step(notify_customer,       None,              Kind.RETRIABLE,     30,          5),
    compensated=_show_manual_review,
)
# fmt: on
