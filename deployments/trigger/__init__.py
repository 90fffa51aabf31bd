"""Triggers orders from Python; from a shell: `order-saga submit`, or `python -m deployments.trigger`.

from deployments.trigger import submit_orders, submit_payloads, run_order, retry_order
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from deployments.database_errors import clear_database_errors
from deployments.running import use_running_world, user
from saga import wakeup
from saga.clock import database_time_sync
from shop.orders import intake, report
from shop.orders.errors import OrderConflict
from shop.orders.formats.known import submit as submit_of_format
from shop.orders.intake_content import HAS_REMOVED, Content, take_in
from shop.orders.order import Order
from shop.orders.outcomes import OrderOutcome, Receipt
from shop.orders.store import ORDERS
from shop.review.retry import NewMeans, RetryReceipt, retry_sync

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

log = logging.getLogger(__name__)

PROCESS_ORDER = "process-order/process-order"
HOUSEKEEPING = "housekeeping/housekeeping"
_POLL_SECONDS = 0.5
_KEPT_SECONDS = 30
"""Seconds during which only the run that is started for an order may claim it, before the pending lane."""
AnyOrder = Order | Mapping[str, Any]


use_running_world()


@clear_database_errors
def submit_orders(orders: Iterable[AnyOrder]) -> list[Receipt]:
    """Stores the orders and returns a receipt for each: `accepted`, already `known`, or `refused` with
    reasons (no usable id, or the id of an order with different content).

    Accepted orders reach an outcome whatever happens next. A known order that has ended keeps its outcome,
    which its receipt has, and is not retried: `how_to_retry` says how. Needs only the database, not the
    Prefect server. If this raises, some of the orders may be stored and reach their outcomes; submitting all
    of them again is safe.
    """
    return intake.submit(orders)


@clear_database_errors
def submit_payloads(format: str, payloads: Iterable[object]) -> list[Receipt]:  # noqa: A002  (the option's name)
    """Stores the orders of another shop system, as it writes them: `shopify`, `woocommerce` or `medusa`.

    Returns a receipt for each, like `submit_orders`. `ignored` lists what has no place here. An order that is
    not paid yet, or was cancelled there, is `refused` and not stored; one that cannot be represented is
    stored, ends as rejected, and has the reasons in its receipt.
    """
    return submit_of_format(format, payloads)


@clear_database_errors
def run_order(order: AnyOrder, *, own_run: bool = False, timeout: float = 300) -> OrderOutcome:
    """Submits the order and waits for its outcome. Submitting the same order again returns the first outcome
    and does nothing.

    `own_run`: starts a flow run of the `process-order` deployment for it; otherwise the pending lane is woken
    and takes it. The order is stored first in either case: if its run cannot be started, or does not start
    within 30 seconds, the pending lane takes it. Raises `UnusableOrder` (no usable id), `OrderConflict` (the
    id of an order with different content), and `TimeoutError` if there is no outcome after `timeout` seconds:
    the order is stored, and its processing continues.
    """
    content = take_in(order)
    own_run = own_run and is_well_shaped(content)
    receipt = _submit(content, kept_for=_KEPT_SECONDS if own_run else None)
    if own_run and receipt.status == "accepted":
        _try_own_run(content)
    elif receipt.outcome is None:
        wake_pending_lane()
    return wait_for_outcome(content.order_id, timeout)


@clear_database_errors
def wait_for_outcome(order_id: str, seconds: float) -> OrderOutcome:
    """Waits for the order's outcome, up to this many seconds. Raises `TimeoutError`."""
    deadline = time.monotonic() + seconds
    # Connected before the outcome is read, so that none is missed.
    with wakeup.listening_sync(ORDERS, wakeup.FINISHED) as ear:
        while (known := report.read([order_id]).get(order_id)) is None or known.outcome is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(
                    f"order {order_id} has no outcome after {seconds:g} s; its processing continues"
                )
            for _ in ear.notifies(timeout=min(left, _POLL_SECONDS), stop_after=1):
                pass
    return known


@clear_database_errors
def retry_order(
    order_id: str,
    *,
    token: str | None = None,
    method: str | None = None,
    card_last4: str | None = None,
    requested_by: str | None = None,
    reason: str | None = None,
    started_by: str | None = None,
) -> RetryReceipt:
    """Tries an order again that was rejected, out of stock or compensated, and wakes the pending lane.
    `token`, `method` and `card_last4` replace the order's means of payment, if one of them is given.

    Returns at once; `run_order` with the order waits for the outcome. Asking again while the new try is under
    way changes nothing. Raises the errors of `shop.review.errors`: `OrderUnknown`, `NotRetryable`,
    `RetryInvalid`.
    """
    receipt = retry_sync(
        order_id,
        NewMeans(token, method, card_last4),
        requested_by=requested_by,
        reason=reason,
        started_by=started_by or user("in Python"),
    )
    wake_pending_lane()
    return receipt


def start_own_run(content: Content) -> FlowRun:
    """Starts the `process-order` deployment for the order, without waiting for it. Its parameters contain
    nothing that looked like card data. Raises the Prefect client's errors if the server does not answer.
    Stores nothing."""
    return _start(PROCESS_ORDER, {"order": json.loads(content.text)})


def _try_own_run(content: Content) -> None:
    try:
        start_own_run(content)
    except Exception as error:  # noqa: BLE001  (any error: the order is stored, and the pending lane takes it)
        log.warning(
            "no run could be started for order %s (%s): the pending lane takes it",
            content.order_id,
            type(error).__name__,
        )


def _submit(order: Content, *, kept_for: float | None) -> Receipt:
    receipt = intake.submit([order], kept_for=kept_for)[0]
    if receipt.status == "refused":
        raise OrderConflict(receipt.order_id or "")
    return receipt


def is_well_shaped(content: Content) -> bool:
    """Returns whether the deployment's parameter schema accepts the order. The pending lane rejects one that
    it does not accept, with its reasons. The same goes for an order of which something was removed: its
    unknown fields are unchecked."""
    try:
        Order.model_validate_json(content.text)
    except ValidationError:
        return False
    return HAS_REMOVED not in json.loads(content.text)


def wake_pending_lane() -> bool:
    """Makes sure that a consumer processes waiting orders; see `flows.consumers`, which is imported only when
    it is needed. Returns False if the Prefect server does not answer."""
    from flows import consumers

    return consumers.wake_pending_lane()


def start_handling_events() -> None:
    """Makes sure that the gateway's stored events are handled: a running consumer finds them within a second;
    if none runs, starts a run of `housekeeping`. Raises the Prefect client's errors: the events are stored,
    and the next consumer handles them."""
    if not wakeup.is_consumer_running(ORDERS):
        _start(HOUSEKEEPING, {"only_due": True})


def _start(deployment: str, parameters: dict[str, Any] | None = None) -> FlowRun:
    from prefect.deployments import run_deployment

    # `_sync`, because inside an event loop it would otherwise return a coroutine. An explicit time, because
    # the default is this machine's clock.
    due = database_time_sync()
    started: Any = cast(Any, run_deployment)(
        deployment, parameters=parameters, timeout=0, scheduled_time=due, _sync=True
    )
    return started  # type: ignore[no-any-return]
