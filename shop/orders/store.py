"""The saga engine's store for orders, with the shop's hooks: outcomes, money, notices to customers, manual
review, and the stock of postponed orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from saga.database import Tx
from saga.errors import StepError
from saga.hooks import Ending, Hooks
from saga.instance import SagaInstance
from saga.outcome import Compensation
from saga.store import SagaStore
from shop.inventory import stock
from shop.inventory.errors import OutOfStock
from shop.inventory.port import STEP as RESERVING
from shop.monitoring import outcome_counter
from shop.monitoring.outcome_counter import Ended
from shop.notifications.kinds import Kind
from shop.notifications.notices import Notice, add_notices, awaiting_payment, notice_of, withdraw
from shop.orders.errors import OrderRejected
from shop.orders.order import Order, OrderInstance, read_stored
from shop.orders.outcomes import Outcome
from shop.orders.tries import earlier_money
from shop.payments.charge import STEP as PAYMENT
from shop.payments.elsewhere import is_paid_before, is_paid_later, received_by_order
from shop.payments.errors import PaymentAwaited
from shop.payments.moved import given_by_hand, money_moved, moved_elsewhere
from shop.review import attention
from shop.text.customer_words import hidden, without_customer
from shop.values.money import currency_of

_COMPENSATED = frozenset({Outcome.COMPENSATED, Outcome.OUT_OF_STOCK, Outcome.REJECTED})


class _Extra(NamedTuple):
    """What commits with an order's outcome."""

    notice: Notice | None
    case: attention.NewCase | None


class OrderHooks(Hooks[Order]):
    """The order saga's hooks."""

    outcome_columns = {  # noqa: RUF012  (a ClassVar of the base)
        "currency": "text",
        "amount_charged": "numeric",
        "amount_refunded": "numeric",
        "amount_at_risk": "numeric",
        "amount_elsewhere": "numeric",
    }
    status_past_pivot = "shipped"
    # The gateway sent an event, or its money was recorded, while a worker held it.
    urgent = (
        "EXISTS (SELECT 1 FROM payment_event e WHERE e.order_id = i.id AND e.handled_at IS NULL "
        "AND e.received_at > now() - make_interval(secs => :held_seconds)) "
        "OR EXISTS (SELECT 1 FROM received_payment r WHERE r.order_id = i.id "
        "AND r.recorded_at > now() - make_interval(secs => :held_seconds))"
    )

    def outcome(self, instance: OrderInstance, compensations: Sequence[Compensation]) -> Outcome:
        match instance.failure.kind if instance.failure else None:
            case None:
                return Outcome.COMPLETED
            case OrderRejected.code:
                return Outcome.REJECTED
            case OutOfStock.code if all(map(_found_nothing, compensations)):
                return Outcome.OUT_OF_STOCK
            case _:
                return Outcome.COMPENSATED

    def begun_elsewhere(self, instance: OrderInstance) -> tuple[str, ...]:
        # Money of a transfer can be recorded before the payment step begins.
        others_pay = is_paid_before(instance.content) or is_paid_later(instance.content)
        return (PAYMENT,) if others_pay else ()

    def prepare(self, instance: OrderInstance, outcome: str) -> tuple[Mapping[str, Any], _Extra]:
        outcome = Outcome(outcome)
        charged, refunded, at_risk = money_moved(instance)
        currency = currency_of(instance.content)
        earlier = earlier_money(instance.content)
        notice = notice_of(
            instance,
            outcome,
            charged=charged - earlier,
            given_back=refunded + given_by_hand(instance) - earlier,
            at_risk=at_risk,
            currency=currency,
        )
        case = attention.case_of(instance, at_risk, currency) if outcome is Outcome.NEEDS_ATTENTION else None
        columns = {
            "currency": currency,
            "amount_charged": charged,
            "amount_refunded": refunded,
            "amount_at_risk": at_risk,
            "amount_elsewhere": moved_elsewhere(instance),
        }
        return columns, _Extra(notice, case)

    async def ended(self, tx: Tx, endings: Sequence[Ending[Order]]) -> None:
        extras: list[_Extra] = [ending.extra for ending in endings]
        waited = [ending.instance.id for ending in endings if is_paid_later(ending.instance.content)]
        await withdraw(tx, waited, Kind.AWAITING_PAYMENT)
        await add_notices(tx, [extra.notice for extra in extras if extra.notice is not None])
        await attention.put(tx, [extra.case for extra in extras if extra.case is not None])
        await attention.clear(
            tx, [ending.instance.id for ending in endings if ending.outcome in _COMPENSATED]
        )

    def committed(self, endings: Sequence[Ending[Order]]) -> None:
        if (counts := outcome_counter.current()) is not None:
            counts.add([_counted(ending) for ending in endings])

    async def before_postponing(
        self, instances: Sequence[OrderInstance], seconds: float, error: StepError | None
    ) -> None:
        if error is not None and error.keeps_resources:
            await stock.before_extend(instances, seconds)

    async def postponed(
        self, tx: Tx, instances: Sequence[OrderInstance], seconds: float, error: StepError | None
    ) -> None:
        if error is not None and error.keeps_resources:
            await stock.extend(tx, instances, seconds)
        if isinstance(error, PaymentAwaited):
            came = await received_by_order(tx, [each.id for each in instances])
            await add_notices(
                tx, [awaiting_payment(each, came.get(each.id, Decimal(0))) for each in instances]
            )

    def redacted(self, error: StepError, instance: OrderInstance) -> StepError:
        return hidden(error, instance.content)

    def redacted_text(self, text: str, instance: OrderInstance) -> str:
        return without_customer(text, instance.content)


def _found_nothing(compensation: Compensation) -> bool:
    """Returns whether the compensation found nothing to release or refund. It runs even if an inventory
    service refused to reserve, to end the order there, and for money that others may have."""
    nothing = {RESERVING: "no_reservation_to_release", PAYMENT: "no_payment_to_refund"}
    return nothing.get(compensation.step) == compensation.status


def _counted(ending: Ending[Order]) -> Ended:
    order: SagaInstance[Order] = ending.instance
    code = order.failure.kind if order.failure else None
    columns, earlier = ending.columns, earlier_money(order.content)
    return Ended(
        order.id,
        Outcome(ending.outcome),
        order.failing_step,
        code,
        columns["currency"],
        columns["amount_charged"] - earlier,
        columns["amount_refunded"] - earlier,
        columns["amount_at_risk"],
    )


ORDERS: SagaStore[Order] = SagaStore(
    instances="customer_order",
    journal="order_step",
    leases="lease",
    key="order_id",
    noun="order",
    parse=read_stored,
    hooks=OrderHooks(),
)
"""The store of orders."""
