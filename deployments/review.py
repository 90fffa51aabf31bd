"""Manual review from Python. Needs only the database: decisions are stored there, and any worker takes the
order to its outcome.

"""

from __future__ import annotations

from decimal import Decimal

from deployments.database_errors import clear_database_errors
from deployments.running import use_running_world, user
from deployments.trigger import wait_for_outcome, wake_pending_lane
from saga.cancelling import Asked
from shop.notifications.outbox import Undelivered, read_undelivered_sync, send_again_sync
from shop.orders.outcomes import OrderOutcome
from shop.payments.disputes import OpenDispute, read_open_sync
from shop.reconciliation.outstanding import accept_sync
from shop.review import resolution as review
from shop.review.attention import ReviewCase, read_queue_sync
from shop.review.cancel import ask_to_cancel_sync
from shop.review.preview import CancelPreview, preview_cancel_sync
from shop.review.resolution import Resolution

use_running_world()


@clear_database_errors
def orders_that_need_attention(most: int = 500) -> list[ReviewCase]:
    """Returns the orders under manual review, the oldest first."""
    return read_queue_sync(most).cases


@clear_database_errors
def open_disputes(most: int = 500) -> list[OpenDispute]:
    """Returns charges that customers' banks dispute, those with the earliest deadline first."""
    return read_open_sync(most)


@clear_database_errors
def preview_cancel(order_id: str) -> CancelPreview:
    """Returns what cancelling the order now would compensate and cost. Changes nothing. Raises
    `OrderUnknown`."""
    from flows.order_saga import ORDER_SAGA

    return preview_cancel_sync(order_id, ORDER_SAGA)


@clear_database_errors
def cancel_order(
    order_id: str, *, reason: str, requested_by: str, confirmed: bool, timeout: float = 300
) -> CancelPreview | OrderOutcome:
    """Previews a cancellation (`confirmed` false), or cancels the order and waits for its outcome.

    Cancelling compensates the order, or returns it if it has been shipped. Repeating it has no further
    effect. Raises `OrderUnknown`, `ResolutionIncomplete` (a text is missing), and `TimeoutError` if there is
    no outcome after `timeout` seconds: the order is cancelled nevertheless.
    """
    if not confirmed:
        return preview_cancel(order_id)
    ask_to_cancel(order_id, reason=reason, requested_by=requested_by)
    return wait_for_outcome(order_id, timeout)


@clear_database_errors
def ask_to_cancel(order_id: str, *, reason: str, requested_by: str, through: str = "in Python") -> Asked:
    """Stores the request to cancel the order, and wakes a worker. Raises as `cancel_order` does."""
    asked = ask_to_cancel_sync(order_id, reason=reason, requested_by=requested_by, started_by=user(through))
    if asked is not Asked.ENDED:
        wake_pending_lane()
    return asked


@clear_database_errors
def resolve_order(
    order_id: str,
    resolution: Resolution | str,
    *,
    resolved_by: str,
    reference: str | None = None,
    reason: str | None = None,
    amount: str | Decimal | None = None,
    timeout: float = 300,
) -> OrderOutcome:
    """Resolves an order under manual review, or retries its compensations, and waits for the outcome.
    Repeating the same decision has no effect. With `amount`, such as `"1059.97 USD"`, settles only this one:
    if another amount is at risk by now, raises `AmountChanged`.

    Raises the errors of `shop.review.errors`, and `TimeoutError` if there is no outcome after `timeout`
    seconds: the decision is stored nevertheless.
    """
    decided = review.decision(
        order_id,
        resolution,
        resolved_by=resolved_by,
        reference=reference,
        reason=reason,
        started_by=user("in Python"),
        amount=None if amount is None else f"{amount:f}" if isinstance(amount, Decimal) else amount,
    )
    if review.resolve_sync(decided) and decided.resolution is not Resolution.HOLD:
        wake_pending_lane()
    return wait_for_outcome(decided.order_id, timeout)


@clear_database_errors
def accept_discrepancies(order_id: str, *, accepted_by: str, reason: str) -> int:
    """Accepts the open discrepancies that `reconcile-payments` found for the order. Returns how many there
    were; raises `NothingToAccept` and `ResolutionIncomplete`."""
    return accept_sync(order_id, accepted_by=accepted_by, reason=reason, started_by=user("in Python"))


@clear_database_errors
def undelivered_messages(most: int = 200) -> list[Undelivered]:
    """Returns mails and CRM messages of the last 30 days that were refused permanently or failed at least
    three times, the newest first."""
    return read_undelivered_sync(most)


@clear_database_errors
def send_again(*order_ids: str) -> int:
    """Makes undelivered messages of these orders (none: of all) due at once, and wakes a worker. Returns
    how many there are. Delivered messages are not sent again."""
    if again := send_again_sync(*order_ids):
        wake_pending_lane()
    return again
