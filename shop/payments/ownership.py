"""Restricts the gateway to this installation's payments: other shops may use the same account, with the same
order ids.

A payment is ours if it has our installation id, or if the journal has its id for its order. A payment without
any installation id is ours only for an order whose payment began before this installation had an id, and only
if the amount is the order's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol, TypeVar, Unpack

from sqlalchemy import text

from saga.database import transaction
from shop.orders.tries import TRY
from shop.payments.charge import STEP
from shop.payments.elsewhere import adopted_by, adopters
from shop.payments.gateway import AsksCustomers, GatewayClient, NewPayment, Payment, Refund
from shop.runtime.installation import installation, installation_id

T = TypeVar("T")
_CLOCKS_DIFFER = timedelta(minutes=5)
"""The greatest expected difference between the gateway's clock and the database's."""
_JOURNALLED = text(
    "SELECT order_id, notes ->> 'payment_id' AS payment_id FROM order_step "
    "WHERE step = :step AND order_id = ANY(CAST(:ids AS text[])) AND notes ? 'payment_id' "
    "UNION ALL SELECT id, jsonb_array_elements_text(content -> :try -> 'payments') FROM customer_order "
    "WHERE id = ANY(CAST(:ids AS text[])) AND content ? :try"
)
_BEGAN_BEFORE = text(
    "SELECT s.begun_at, o.content ->> 'total_amount' AS total, "
    "coalesce(o.content ->> 'currency', 'USD') AS currency "
    "FROM customer_order o JOIN order_step s ON s.order_id = o.id AND s.step = :step "
    "WHERE o.id = :id AND s.begun_at < :made_at"
)


class Guard(Protocol):
    """Makes a call to the gateway, or raises `PaymentGatewayUnavailable` (`shop.payments.gateways`)."""

    async def __call__(self, call: Callable[[], Awaitable[T]], /) -> T: ...


async def unguarded(call: Callable[[], Awaitable[T]]) -> T:
    """The `Guard` that makes every call."""
    return await call()


class OwnPayments:
    """A `PaymentGateway` that marks its payments with the installation id, and hides all other payments. Each
    call to the gateway goes through the guard.

    Prefixes idempotency keys with the installation id. Every method also raises database errors.
    """

    def __init__(self, inner: GatewayClient, guard: Guard = unguarded) -> None:
        self.inner, self._guard = inner, guard

    async def create(self, *, key: str, **new: Unpack[NewPayment]) -> Payment:
        mine, own = await installation_id(), await _own(key)
        return await self._guard(lambda: self.inner.create(key=own, installation=mine, **new))

    async def confirm(self, payment_id: str, *, key: str) -> Payment:
        own = await _own(key)
        return await self._guard(lambda: self.inner.confirm(payment_id, key=own))

    async def get(self, payment_id: str) -> Payment:
        """Returns the payment. Its `order_id` is empty if the payment is not ours."""
        payment = await self._get(payment_id)
        return next(iter(await _ours([payment])), replace(payment, order_id=""))

    async def find(self, order_id: str) -> list[Payment]:
        """Returns every payment that this installation ever created for the order, oldest first."""
        found = await self._find(order_id, await installation_id())
        known = {payment.id for payment in found}
        others = [each for each in await adopted_by(order_id) if each not in known]
        adopted_ones = [replace(await self._get(each), order_id=order_id) for each in others]
        return [*await self._unmarked(order_id), *adopted_ones, *found]

    async def pages(self, since: datetime) -> AsyncIterator[list[Payment]]:
        """Yields pages of our payments that were created, charged or refunded since then, with all their
        refunds."""
        pages = self.inner.pages(since)
        while (page := await self._guard(lambda: anext(pages, None))) is not None:
            if mine := await _ours(page):
                yield mine

    async def cancel(self, payment_id: str, *, key: str) -> Payment:
        own = await _own(key)
        return await self._guard(lambda: self.inner.cancel(payment_id, key=own))

    async def refund(self, payment_id: str, *, amount: Decimal, currency: str, key: str) -> Refund:
        own = await _own(key)
        return await self._guard(
            lambda: self.inner.refund(payment_id, amount=amount, currency=currency, key=own)
        )

    async def client_secret(self, payment_id: str) -> str | None:
        """Returns the client secret of a payment that waits for its customer; None for other payments, for
        payments that are not ours, and for gateways without such."""
        inner = self.inner
        if not isinstance(inner, AsksCustomers) or not (await self.get(payment_id)).order_id:
            return None
        return await self._guard(lambda: inner.client_secret(payment_id))

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def _get(self, payment_id: str) -> Payment:
        return await self._guard(lambda: self.inner.get(payment_id))

    async def _find(self, order_id: str, installation: str | None) -> list[Payment]:
        return await self._guard(lambda: self.inner.find(order_id, installation=installation))

    async def _unmarked(self, order_id: str) -> list[Payment]:
        """Returns payments that an earlier version of this software created without a mark, and whose ids
        were lost in a crash."""
        here = await installation()
        async with transaction() as tx:
            row = (
                await tx.execute(_BEGAN_BEFORE, {"id": order_id, "step": STEP, "made_at": here.made_at})
            ).one_or_none()
        if row is None:
            return []
        found = await self._find(order_id, None)
        return [payment for payment in found if _could_be(payment, row)]


def _could_be(payment: Payment, order: Any) -> bool:
    """Returns whether an earlier version may have created the payment for this order."""
    try:
        total = Decimal(order.total)
    except (InvalidOperation, TypeError):
        return False
    same = (payment.amount, payment.currency) == (total, order.currency)
    return same and payment.created_at >= order.begun_at - _CLOCKS_DIFFER


async def _ours(payments: Sequence[Payment]) -> list[Payment]:
    """Returns the payments that have our installation id, whose id is in the journal, or that an order has
    adopted; the latter with that order's id."""
    if not payments:
        return []
    mine = await installation_id()
    others = [payment for payment in payments if payment.installation != mine]
    known: set[tuple[str, str]] = set()
    owners: dict[str, str] = {}
    if others:
        # PostgreSQL cannot store a zero byte, so no order of ours has one in its id.
        ids = [payment.order_id for payment in others if payment.order_id and "\0" not in payment.order_id]
        async with transaction() as tx:
            rows = await tx.execute(_JOURNALLED, {"step": STEP, "ids": ids, "try": TRY})
            known = {(row.order_id, row.payment_id) for row in rows}
        owners = await adopters([payment.id for payment in others if "\0" not in payment.id])
    found = []
    for payment in payments:
        if payment.installation == mine or (payment.order_id, payment.id) in known:
            found.append(payment)
        elif (order_id := owners.get(payment.id)) is not None:
            found.append(replace(payment, order_id=order_id))
    return found


async def _own(key: str) -> str:
    return f"{await installation_id()}-{key}"
