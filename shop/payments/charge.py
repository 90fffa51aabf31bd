"""Charges and refunds an order through the configured gateway.

An unclear result counts as done until proven otherwise (guarantee 5). Therefore a refund does not rely on the
journal for what was charged: it asks the gateway, by order id. The gateway's answers are verified, too: an
answer about a different order, amount or currency counts neither as a charge nor as no charge, and refunds
never exceed the order's amount. Both cases go to manual review.

An order that is tried again has the payments of all its tries at the gateway. Before a later try charges,
those of the earlier ones are cancelled, or refunded if they succeeded late. The results in the journal are
about what moved since this try began; `shop.payments.moved` adds what the tries before charged and refunded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import NoReturn

from pydantic import ValidationError

from saga import checkpoint
from saga.failpoints import failpoint
from shop.orders import names
from shop.orders.errors import OrderRejected
from shop.orders.order import OrderInstance
from shop.orders.tries import earlier_money, earlier_payments, marked, try_number
from shop.payments import elsewhere
from shop.payments.errors import (
    PAID_AND_REJECTED,
    PAID_ELSEWHERE,
    UNDECIDED,
    NoDeliveryAddress,
    PaidAndRejected,
    PaidElsewhere,
    PaidOtherwise,
    PaymentError,
    PaymentGatewayError,
    PaymentMismatch,
    PaymentRefused,
    RefundRefused,
)
from shop.payments.gateway import Payment, PaymentGateway, PaymentStatus, Refund
from shop.payments.results import PaymentResult, RefundResult
from shop.payments.settled import Settled, settled_in
from shop.values.money import currency_of, show, to_minor

STEP = "process_payment"
LATE = "late"
"""Note: the amount that earlier tries charged late, all of which is refunded."""
MOST_UNCLEAR_REFUNDS = 5
"""Limits the refund requests of one order that had no clear answer, before the order goes to manual review.
The gateway may have executed each of them."""
_NOT_SENT = frozenset({"unreachable", "circuit_open", "authentication", "rate_limit", "lock_timeout"})
"""Errors after which the gateway has certainly not executed the request."""
_CREATING, _CONFIRMING, _CANCELLING, _REFUNDING = (
    failpoint(what)
    for what in ("creating a payment", "confirming a payment", "cancelling a payment", "refunding a payment")
)


async def charge(instance: OrderInstance, gateway: PaymentGateway) -> PaymentResult:
    """Creates the payment, journals its id, and confirms it by that id. Charges what is due, once, however
    often it is called; nothing, if others take the money (`shop.payments.elsewhere`)."""
    order = instance.payload
    if order.payment_info is None and order.amount_due > 0:
        raise PaymentRefused("the order has no payment_info, so there is nothing to charge")
    if order.shipping_info is None and order.needs_shipment:
        raise NoDeliveryAddress
    payment_id = instance.journal[STEP].notes.get("payment_id")
    if payment_id is None and try_number(instance) > 1 and LATE not in instance.journal[STEP].notes:
        late = await settle_earlier_tries(instance, gateway)  # so that only this try charges
        await checkpoint(instance, STEP, **{LATE: str(late)})
    if (settled := await elsewhere.settle(instance, gateway)) is not None:
        return settled
    if payment_id is None:
        payment = _checked(instance, await _find_or_create(instance, gateway))
        payment_id = payment.id
        await checkpoint(instance, STEP, payment_id=payment_id)
        if payment.status is PaymentStatus.SUCCEEDED:
            return _charged(payment, order.paid_in_part)
    elif instance.journal[STEP].attempts > 1:
        payment = _checked(instance, await gateway.get(payment_id), payment_id)
        is_over = payment.status is not PaymentStatus.CREATED and payment.kept == 0
        if is_over and (later := await _charge_of_later_try(instance, gateway)) is not None:
            await checkpoint(instance, STEP, payment_id=later.id)
            return _charged(later, order.paid_in_part)
        if payment.status is PaymentStatus.SUCCEEDED:
            return _charged(payment, order.paid_in_part)
    with _CONFIRMING:
        confirmed = await gateway.confirm(payment_id, key=names.key(order.id, f"confirm-{payment_id}"))
    return _charged(_checked(instance, confirmed, payment_id), order.paid_in_part)


async def settle_earlier_tries(instance: OrderInstance, gateway: PaymentGateway) -> Decimal:
    """Cancels the payments of earlier tries, and refunds those that succeeded late. Returns the amount that
    they have charged and refunded in addition to what was known when this try began; `LATE` in the step's
    notes. Refunds nothing if the gateway no longer has a refund that was known."""
    undone, known = _Undone(_currency(instance)), earlier_money(instance.content)
    earlier = [
        payment
        for payment in await payments_of(instance.id, gateway, *earlier_payments(instance.content))
        if payment.try_number < try_number(instance)
    ]
    # The bank has returned a refund: only a person may repeat it.
    is_returned = sum(payment.amount_refunded for payment in earlier) < known
    for payment in earlier:
        is_left = not is_returned or payment.status is PaymentStatus.CREATED
        if is_left and payment.id != elsewhere.reference(instance.content):
            await _undo(instance, payment, gateway, undone, (0, 0))
    return max(undone.refunded - known, Decimal(0))


def _checked(instance: OrderInstance, payment: Payment, payment_id: str | None = None) -> Payment:
    """Returns the payment. Raises `PaymentMismatch` if its id is not the requested one, or if it differs from
    the order."""
    if payment_id not in {None, payment.id}:
        raise PaymentMismatch("payment")
    if differs := _differs(instance, payment):
        raise PaymentMismatch(differs)
    return payment


def _differs(instance: OrderInstance, payment: Payment) -> str | None:
    """Returns what differs between the payment and the order, or None."""
    if payment.order_id != instance.id:
        return "order"
    if payment.currency != _currency(instance):
        return "currency"
    if payment.amount != _due(instance):
        return "amount"
    if (
        payment.amount_refunded != sum(each.amount for each in payment.refunds)
        or payment.amount_refunded > payment.amount
    ):
        return "sum of refunds"
    return None


def _due(instance: OrderInstance) -> Decimal:
    """Returns the amount to charge. Zero if the order is not valid, as it is never charged then."""
    charged = instance.result(STEP).get("amount_charged")
    if charged is not None:
        return Decimal(str(charged))
    try:
        return instance.payload.amount_due
    except ValidationError:
        return Decimal(0)


async def _find_or_create(instance: OrderInstance, gateway: PaymentGateway) -> Payment:
    """Returns the order's payment. On later attempts, searches for one whose id was lost, in a crash or by a
    restore of the database, before creating a new one. A restore may have lost later tries, too."""
    order = instance.payload
    if instance.journal[STEP].attempts > 1:
        usable = [
            p
            for p in await gateway.find(order.id)
            if p.status in {PaymentStatus.SUCCEEDED, PaymentStatus.CREATED}
            and p.try_number >= try_number(instance)
        ]
        usable.sort(key=lambda payment: (payment.status is PaymentStatus.CREATED, payment.kept == 0))
        # A charge of another amount is never followed by a second one: the caller rejects it.
        if usable and (
            usable[0].status is PaymentStatus.SUCCEEDED
            or (usable[0].amount, usable[0].currency) == (order.amount_due, order.currency)
        ):
            return usable[0]
    info = order.payment_info
    if info is None:
        raise PaymentRefused("the order has no payment_info, so there is nothing to charge")
    with _CREATING:
        return await gateway.create(
            order_id=order.id,
            amount=order.amount_due,
            currency=order.currency,
            method=info.method,
            card_last4=info.card_last4,
            token=info.token,
            key=names.key(order.id, marked("create", try_number(instance))),
            try_number=try_number(instance),
        )


async def _charge_of_later_try(instance: OrderInstance, gateway: PaymentGateway) -> Payment | None:
    """Returns what a later try of the order has charged, if a restore of the database has lost that try."""
    for payment in await gateway.find(instance.id):
        is_charged = payment.status is PaymentStatus.SUCCEEDED and payment.kept > 0
        if is_charged and payment.try_number > try_number(instance):
            return _checked(instance, payment)
    return None


def _charged(payment: Payment, paid_in_part: Decimal) -> PaymentResult:
    if (
        payment.status is not PaymentStatus.SUCCEEDED
        or payment.transaction_id is None
        or payment.charged_at is None
    ):
        raise PaymentGatewayError(
            "not_charged", f"the gateway answered {payment.status} to a confirmation", retryable=True
        )
    if payment.kept == 0:
        raise PaymentRefused("the order was charged and refunded already, so nothing is charged again")
    return PaymentResult(
        payment_id=payment.id,
        transaction_id=payment.transaction_id,
        amount_charged=payment.amount,
        amount_elsewhere=paid_in_part,
        currency=payment.currency,
        gateway_fee=payment.fee,
        payment_method=payment.method,
        charged_at=payment.charged_at,
    )


async def refund(instance: OrderInstance, gateway: PaymentGateway) -> RefundResult:
    """Refunds what was charged and cancels what was only created, according to the gateway, not the journal.
    Leaves out what a person has settled before.

    Raises `RefundRefused` if the order needs manual review: the gateway refuses a refund, reports more to
    refund than the order's amount, or gave no clear answer to too many refunds; or others have taken money,
    which a person has to give back. Everything else has been refunded. An order that is paid already, and not
    valid, goes there with nothing refunded: it may be corrected and tried again.
    """
    entry = instance.journal.get(STEP)
    journalled = entry.notes.get("payment_id") if entry else None
    earlier = (entry.undo_error or {}) if entry else {}
    refusals, unclear = int(earlier.get("refusals", 0)), int(earlier.get("unclear_refunds", 0))
    is_decided = earlier.get(UNDECIDED) is False
    settled = settled_in(entry)
    undone = _Undone(_currency(instance), settled=(settled or Settled()).gateway)
    refused: PaymentError | None = None
    others = await _taken_elsewhere(instance, gateway, settled, decided=is_decided)
    known = (journalled, *earlier_payments(instance.content))
    payments = await payments_of(instance.id, gateway, *known)
    for payment in sorted(payments, key=lambda payment: payment.id != journalled):  # the journalled one first
        try:
            await _undo(instance, payment, gateway, undone, (refusals, unclear))
        except PaymentError as error:
            if error.retryable:
                raise
            refused = refused or error
            undone.payment_id = payment.id
    undone.leave_out(earlier_money(instance.content))
    kind = RefundRefused
    if refused is None and others > 0:
        kind = PaidElsewhere
        amount = show(others, _currency(instance))
        refused = PaymentGatewayError(PAID_ELSEWHERE, f"{amount} were paid elsewhere: give them back by hand")
    if refused is not None:
        raise kind(
            refused.error_code,
            refused.error_message,
            payment_id=str(undone.payment_id),
            charged=undone.charged,
            refunded=undone.refunded,
            currency=undone.currency,
            refusals=refusals + 1,
            elsewhere=others,
            settled=(settled or Settled()).gateway,
        )
    return undone.result()


async def _taken_elsewhere(
    instance: OrderInstance, gateway: PaymentGateway, settled: Settled | None, *, decided: bool
) -> Decimal:
    """Returns what others have taken, and a person has to give back. Makes the gateway's payment of an order
    that is paid already the order's, so that it is refunded with the others. `settled`: by a person before.

    Raises `RefundRefused` for an order that is paid and not valid, unless a person has `decided` that it is
    refunded.
    """
    if settled is not None:  # since then, only transfers can have come
        if not elsewhere.is_paid_later(instance.content):
            return Decimal(0)
        return max(await elsewhere.taken(instance, None) - settled.received, Decimal(0))
    rejected = instance.failure is not None and instance.failure.kind == OrderRejected.code
    if rejected and not decided and elsewhere.is_paid_before(instance.content):
        raise PaidAndRejected(
            PAID_AND_REJECTED,
            "the order is paid and was not valid. Correct what is wrong, and try it again: order-saga retry; "
            "or have the money given back: order-saga review retry",
            currency=_currency(instance),
            elsewhere=await elsewhere.taken(instance, None),
        )
    try:
        adopted = await elsewhere.payment_of(instance, gateway)
    except PaidOtherwise:  # another order's payment: nothing of this order was paid
        return elsewhere.paid_before(instance.content, whole=False)
    return await elsewhere.taken(instance, adopted)


async def payments_of(order_id: str, gateway: PaymentGateway, *known: str | None) -> list[Payment]:
    """Returns the order's payments of all its tries, including the known ones, which the gateway's search may
    not find yet, or no longer."""
    payments = await gateway.find(order_id)
    found = {None, *(payment.id for payment in payments)}
    return payments + [await gateway.get(each) for each in dict.fromkeys(known) if each and each not in found]


@dataclass(slots=True)
class _Undone:
    """What was charged according to the gateway, and what was refunded: the sums of all payments of the
    order."""

    currency: str
    charged: Decimal = Decimal(0)
    refunded: Decimal = Decimal(0)
    payment_id: str | None = None
    refund_id: str | None = None
    when: datetime | None = None
    cancelled: bool = False
    of_try: dict[int, Decimal] = field(default_factory=dict)
    """By the try's number, what was refunded."""
    settled: Decimal = Decimal(0)
    """What a person has settled, and is not refunded from the payments that are left."""

    def refund(self, payment: Payment, amount: Decimal) -> None:
        self.refunded += amount
        self.of_try[payment.try_number] = self.of_try.get(payment.try_number, Decimal(0)) + amount

    def keep(self, amount: Decimal) -> Decimal:
        """Returns what is to be refunded of the amount that the gateway keeps: not what a person settled."""
        kept = min(self.settled, amount)
        self.settled -= kept
        return amount - kept

    def leave_out(self, earlier: Decimal) -> None:
        """Leaves out what earlier tries have charged and refunded before this one began."""
        earlier = min(earlier, self.charged, self.refunded)
        self.charged, self.refunded = self.charged - earlier, self.refunded - earlier

    def result(self) -> RefundResult:
        return RefundResult(
            compensation_status="success"
            if self.charged
            else "cancelled"
            if self.cancelled
            else "no_payment_to_refund",
            refund_id=self.refund_id if self.charged else None,
            refunded_amount=self.refunded,
            amount_charged=self.charged,
            currency=self.currency,
            original_payment_id=self.payment_id,
            refund_timestamp=self.when,
        )


async def _undo(
    instance: OrderInstance,
    payment: Payment,
    gateway: PaymentGateway,
    undone: _Undone,
    before: tuple[int, int],
) -> None:
    """Cancels or refunds one payment. `before`: how many refunds of the order were refused, and how many had
    no clear answer."""
    refusals, unclear = before
    if payment.order_id != instance.id:
        _needs_review(
            instance, undone, "the journalled payment belongs to a different order: nothing is refunded"
        )
    if payment.status is PaymentStatus.CREATED:
        with _CANCELLING:
            # The payment may have been charged meanwhile.
            payment = await gateway.cancel(payment.id, key=names.key(instance.id, f"cancel-{payment.id}"))
    if payment.try_number == try_number(instance):
        undone.cancelled = undone.cancelled or payment.status is PaymentStatus.CANCELLED
    undone.payment_id = undone.payment_id or payment.id
    if payment.status is not PaymentStatus.SUCCEEDED:
        if instance.result(STEP).get("payment_id") == payment.id:
            why = (
                f"the gateway reported the payment as charged before, and reports it as {payment.status} now"
            )
            _needs_review(instance, undone, why)
        return
    if (differs := _differs(instance, payment)) and not _is_fully_refunded(payment):
        charged = payment.charged if payment.currency == undone.currency else None
        _needs_review(
            instance, undone, f"the charge at the gateway differs from the order in its {differs}", charged
        )
    undone.payment_id, undone.currency = payment.id, payment.currency
    undone.charged += payment.amount
    undone.refund(payment, payment.amount_refunded)
    for earlier in payment.refunds:
        undone.refund_id, undone.when = earlier.id, earlier.created_at
    left = undone.keep(payment.kept)
    if left <= 0:
        return
    _check_refund(instance, payment, undone, unclear)
    # A gateway repeats its answer to a key. Therefore the attempt after a refusal, which is final, has a new
    # key; the one after a timeout has the same.
    key = names.key(instance.id, f"refund-{payment.id}-{to_minor(left, payment.currency)}-{refusals}")
    try:
        made = await _refund_rest(payment, left, gateway, key)
    except PaymentError as error:
        if error.retryable and not error.before_request and error.error_code not in _NOT_SENT:
            error.unclear_refunds = unclear + 1
        raise
    undone.refund_id, undone.when = made.id, made.created_at
    undone.refund(payment, left)


def _is_fully_refunded(payment: Payment) -> bool:
    """Returns whether the whole charge was refunded, so that nothing is left to decide about it."""
    return payment.kept == 0 < payment.charged == sum(each.amount for each in payment.refunds)


def _needs_review(
    instance: OrderInstance, undone: _Undone, why: str, charged: Decimal | None = None
) -> NoReturn:
    """Raises `PaymentGatewayError`, not retryable, so that the payment goes to manual review. Until it is
    resolved, `charged` (the gateway's amount), or else the order's amount, counts as charged and not
    refunded."""
    undone.charged += charged or _due(instance)
    raise PaymentGatewayError("payment_mismatch", why, retryable=False)


def _check_refund(instance: OrderInstance, payment: Payment, undone: _Undone, unclear: int) -> None:
    """Raises `PaymentGatewayError`, not retryable, if the rest of the payment must not be refunded before a
    manual review."""
    if undone.of_try.get(payment.try_number, Decimal(0)) + payment.kept > _due(instance):
        why = ("refund_over_charge", "the gateway reports more to refund than the order's amount")
    elif unclear >= MOST_UNCLEAR_REFUNDS:
        why = (
            "refund_unclear",
            f"the gateway gave no clear answer to {unclear} refund requests, and may have executed them",
        )
    else:
        return
    raise PaymentGatewayError(*why, retryable=False)


async def _refund_rest(payment: Payment, left: Decimal, gateway: PaymentGateway, key: str) -> Refund:
    """Refunds the rest of the payment. After a refusal, returns the existing refund if the money is already
    back: a request of a dead worker may have arrived late."""
    try:
        with _REFUNDING:
            return await gateway.refund(payment.id, amount=left, currency=payment.currency, key=key)
    except PaymentError as refused:
        if refused.retryable:
            raise
        now = await gateway.get(payment.id)
        if now.kept > 0 or not now.refunds:
            raise
        return now.refunds[-1]


def _currency(instance: OrderInstance) -> str:
    return currency_of(instance.content)
