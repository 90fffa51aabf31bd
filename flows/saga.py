"""The order saga, once: the flows run this table, and whatever draws or explains the saga reads it.

Adding a step is a file in `tasks/` and a line here; see the README.
"""

from __future__ import annotations

from shop.saga import Kind, Saga, Step
from tasks.check_inventory import check_inventory, release_inventory
from tasks.fulfill_order import fulfill_order, return_shipment
from tasks.generate_confirmation import generate_confirmation
from tasks.notify_customer import notify_customer
from tasks.process_payment import process_payment, refund_payment
from tasks.validate_order import validate_order

# fmt: off
ORDER_SAGA = Saga(
    #    name                     task                   compensation       kind                time limit   retries
    Step("validate_order",        validate_order,        None,              Kind.READ_ONLY,     30,          3),
    Step("check_inventory",       check_inventory,       release_inventory, Kind.COMPENSATABLE, 45,          3),
    Step("process_payment",       process_payment,       refund_payment,    Kind.COMPENSATABLE, 60,          4),
    Step("generate_confirmation", generate_confirmation, None,              Kind.READ_ONLY,     60,          2),
    Step("fulfill_order",         fulfill_order,         return_shipment,   Kind.PIVOT,         150,         3),
    Step("notify_customer",       notify_customer,       None,              Kind.RETRIABLE,     30,          5),
)
# fmt: on
