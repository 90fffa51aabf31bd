"""What cancelling an order now would compensate, and what it would cost."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

from pydantic import BaseModel
from sqlalchemy import Connection, text

from saga.database import transaction
from saga.definition import Kind, Saga
from shop.inventory.stock import held_pieces
from shop.orders.outcomes import Outcome
from shop.orders.tries import number_of
from shop.payments import elsewhere
from shop.payments.charge import STEP as PAYMENT
from shop.payments.charge import payments_of
from shop.payments.elsewhere import SUM, UNKNOWN
from shop.payments.errors import PaymentError, PaymentGatewayError
from shop.payments.gateway import Payment, PaymentGateway, PaymentStatus
from shop.payments.gateways import gateway
from shop.review.errors import OrderUnknown
from shop.runtime.sync import run_sync
from shop.values.money import currency_of, show

_ORDER = text(
    """
    SELECT o.outcome, o.failure IS NOT NULL AS failed, o.cancel_requested_at IS NOT NULL AS asked,
        o.currency AS known_currency,
        o.content ->> 'currency' AS currency, o.content, o.content ->> 'total_amount' AS total,
        EXISTS (SELECT 1 FROM lease l WHERE l.id = o.lease_id AND l.until > now()) AS in_hand,
        (SELECT items FROM shipment s WHERE s.order_id = o.id AND s.returned_at IS NULL) AS shipped
    FROM customer_order o WHERE o.id = :id
    """
)
_STEPS = text(
    "SELECT step, status, notes, result, undo_due FROM order_step "
    "WHERE order_id = :id AND undo_status IS DISTINCT FROM 'done'"
)


class Effect(StrEnum):
    """What cancelling means for the order in its present state."""

    CANCEL = "cancel"
    """It has not been shipped: what was done is compensated."""
    RETURN = "return"
    """It has been shipped: it is returned and refunded."""
    NOTHING = "nothing"
    """It has ended with nothing to compensate, or is being compensated already."""


class PlannedUndo(BaseModel, frozen=True):
    """One compensation that would run."""

    step: str
    compensation: str


class CancelPreview(BaseModel, frozen=True):
    """What cancelling now would do. If a worker is processing the order, it may be further a moment later."""

    order_id: str
    effect: Effect
    stage: str
    """Where the order stands, for people."""
    in_hand: bool
    """Whether a worker is processing it now."""
    undo: list[PlannedUndo] = []
    """In the sequence in which they would run."""
    pieces: dict[str, int] = {}
    """Per product: the pieces that would be for sale again."""
    refund: Decimal = Decimal(0)
    """What would still be refunded, according to the gateway."""
    refund_is_certain: bool = True
    """False: the gateway does not answer, or a payment can still be charged; `refund` is the upper limit."""
    refunded: Decimal = Decimal(0)
    """What has been refunded already, for example in the gateway's dashboard."""
    fee_lost: Decimal = Decimal(0)
    """The part of its fee that the gateway keeps of a refunded charge."""
    by_hand: Decimal = Decimal(0)
    """What others have taken, and a person would have to give back: the order goes to manual review."""
    currency: str = "USD"

    def lines(self) -> list[tuple[str, str]]:
        """Returns label and value, for people."""
        if self.effect is Effect.NOTHING:
            return [("order", self.order_id), ("stands", self.stage), ("cancelling", "changes nothing")]
        pieces = ", ".join(f"{n} x {product}" for product, n in self.pieces.items()) or "none"
        nothing = "nothing is left to refund" if self.refunded else "the payment gateway has nothing of it"
        refund = show(self.refund, self.currency) if self.refund else nothing
        refunded = [("refunded already", show(self.refunded, self.currency))] if self.refunded else []
        return [
            ("order", self.order_id),
            ("stands", self.stage + (", a worker is processing it" if self.in_hand else "")),
            (
                "cancelling",
                "returns and refunds it" if self.effect is Effect.RETURN else "stops and compensates it",
            ),
            ("undone", ", ".join(planned.compensation for planned in self.undo) or "nothing"),
            ("pieces for sale again", pieces),
            ("refund", refund if self.refund_is_certain else f"at most {refund}"),
            *refunded,
            *([("to give back by hand", show(self.by_hand, self.currency))] if self.by_hand else []),
            ("gateway fee, not refunded", show(self.fee_lost, self.currency) if self.fee_lost else "none"),
        ]


async def preview_cancel(
    order_id: str, saga: Saga, gateway: PaymentGateway, *, seconds: float | None = None
) -> CancelPreview:
    """Returns what cancelling now would compensate and cost, according to our tables and the gateway.
    Changes nothing. `seconds`: limits the wait for the gateway. Raises `OrderUnknown`."""
    async with transaction() as tx:
        seen = await tx.run_sync(_preview, order_id, saga)
    return await _with_money(seen, gateway, seconds) if seen.begun is not None else seen.preview


def preview_cancel_sync(order_id: str, saga: Saga) -> CancelPreview:
    """Runs `preview_cancel` for callers that cannot await."""
    return run_sync(lambda: preview_cancel(order_id, saga, gateway()))


@dataclass(frozen=True, slots=True)
class _Charge:
    """What the journal has about the order's payment."""

    payment_id: str | None
    amount: Decimal
    """The amount charged; for a charge with an unknown result, the upper limit."""
    fee: Decimal
    ended: bool
    """False: its worker may still be working on it."""
    of_try: int = 1


@dataclass(frozen=True, slots=True)
class _Seen:
    preview: CancelPreview
    """Without the money."""
    begun: _Charge | None = None
    """None: nothing would be refunded."""
    named: str | None = None
    """The gateway's payment by which the order says that it is paid already."""
    by_hand: Decimal = Decimal(0)
    """What others have taken, besides that payment."""
    by_hand_without: Decimal = Decimal(0)
    """The same, if the gateway does not know that payment."""


async def _with_money(seen: _Seen, gateway: PaymentGateway, seconds: float | None) -> CancelPreview:
    """Adds what is left of the order's payments at the gateway, as `refund_payment` will find it. If the
    gateway does not answer, the amount is uncertain."""
    preview, begun = seen.preview, seen.begun
    assert begun is not None
    try:
        async with asyncio.timeout(seconds):
            payments = await payments_of(preview.order_id, gateway, begun.payment_id)
            if seen.named is not None and seen.named not in {payment.id for payment in payments}:
                payments += await _named(seen.named, gateway)
    except (PaymentError, TimeoutError):
        uncertain = {"refund": begun.amount, "refund_is_certain": False, "fee_lost": begun.fee}
        return preview.model_copy(update={**uncertain, "by_hand": seen.by_hand})
    is_named = seen.named in {payment.id for payment in payments}
    # What an earlier try charged and refunded is no part of it.
    mine = [
        payment
        for payment in payments
        if payment.currency == preview.currency
        and (payment.try_number == begun.of_try or payment.kept > 0)
        and (payment.id != seen.named or payment.order_id in {"", preview.order_id})
    ]
    may_be_charged = not begun.ended or any(payment.status is PaymentStatus.CREATED for payment in payments)
    kept = sum((payment.kept for payment in mine), Decimal(0))
    return preview.model_copy(
        update={
            "refund": max(kept, begun.amount) if may_be_charged else kept,
            "refund_is_certain": not may_be_charged,
            "refunded": sum((payment.amount_refunded for payment in mine), Decimal(0)),
            "fee_lost": sum((payment.fee for payment in mine), Decimal(0)),
            "by_hand": seen.by_hand if is_named else seen.by_hand_without,
        }
    )


async def _named(payment_id: str, gateway: PaymentGateway) -> list[Payment]:
    """Returns the gateway's payment by which the order says that it is paid already, if there is one."""
    try:
        return [await gateway.get(payment_id)]
    except PaymentGatewayError as error:
        if error.retryable or error.error_code not in UNKNOWN:
            raise
        return []


def _preview(connection: Connection, order_id: str, saga: Saga) -> _Seen:
    order = connection.execute(_ORDER, {"id": order_id}).mappings().one_or_none()
    if order is None:
        raise OrderUnknown(order_id)
    steps = {row["step"]: row for row in connection.execute(_STEPS, {"id": order_id}).mappings()}
    stands: dict[str, Any] = {"order_id": order_id, "in_hand": order["in_hand"]}
    if (why_not := _why_not(order)) is not None:
        return _Seen(CancelPreview(**stands, effect=Effect.NOTHING, stage=why_not))
    shipped = order["shipped"] is not None
    unbegun = {PAYMENT} if PAYMENT not in steps and elsewhere.is_paid_before(order["content"]) else set()
    begun = [step for step in reversed(saga.steps) if step.undo and step.name in steps.keys() | unbegun]
    undo = [step for step in begun if step.kind is not Kind.PIVOT or shipped or steps[step.name]["undo_due"]]
    came = connection.execute(SUM, {"id": order_id, "currency": order["currency"]}).scalar_one()
    preview = CancelPreview(
        **stands,
        effect=Effect.RETURN if shipped else Effect.CANCEL,
        stage=_stage(order, steps, saga),
        undo=[
            PlannedUndo(step=step.name, compensation=getattr(step.undo, "__name__", step.name))
            for step in undo
        ],
        pieces=dict(order["shipped"] or held_pieces(connection, order_id)),
        currency=currency_of({"currency": order["currency"] or order["known_currency"]}),
    )
    return _Seen(
        preview,
        _paid_before(order["content"]) if unbegun else _charge(order, steps.get(PAYMENT)),
        elsewhere.reference(order["content"]),
        came + elsewhere.paid_before(order["content"], whole=elsewhere.reference(order["content"]) is None),
        came + elsewhere.paid_before(order["content"]),
    )


def _why_not(order: Any) -> str | None:
    match order["outcome"]:
        case None | Outcome.COMPLETED:
            if order["asked"] and order["outcome"] is None:
                return "it is being cancelled already"
            return "it is being compensated already" if order["failed"] else None
        case Outcome.NEEDS_ATTENTION:
            return "it is being compensated and is under manual review"
        case ended:
            return f"it is {ended}"


def _stage(order: Any, steps: Any, saga: Saga) -> str:
    if order["outcome"] == Outcome.COMPLETED:
        return "completed"
    if order["shipped"] is not None:
        return "shipped"
    done = [step.name for step in saga if step.name in steps and steps[step.name]["status"] == "done"]
    return f"not shipped; done so far: {', '.join(done)}" if done else "not shipped; nothing done yet"


def _paid_before(content: Mapping[str, Any]) -> _Charge:
    """Returns what others have begun for an order whose payment step has not."""
    named = elsewhere.reference(content)
    whole, parts = (elsewhere.paid_before(content, whole=whole) for whole in (True, False))
    return _Charge(None, whole - parts if named else Decimal(0), Decimal(0), ended=True)


def _charge(order: Any, payment: Any) -> _Charge | None:
    if payment is None or not payment["undo_due"]:
        return None
    journalled, of_try = payment["notes"].get("payment_id"), number_of(order["content"])
    if payment["status"] != "done":
        if elsewhere.is_paid_later(order["content"]):  # the gateway is never asked to charge it
            return _Charge(journalled, Decimal(0), Decimal(0), ended=True, of_try=of_try)
        return _Charge(journalled, Decimal(order["total"] or 0), Decimal(0), ended=False, of_try=of_try)
    charged, fee = (Decimal(payment["result"].get(name, 0)) for name in ("amount_charged", "gateway_fee"))
    return _Charge(journalled, charged, fee, ended=True, of_try=of_try)
