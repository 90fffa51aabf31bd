"""A payment gateway in memory, to measure a lane without a gateway's own cost. It ignores idempotency
keys."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from typing import Unpack

from shop.payments.gateway import NewPayment, Payment, PaymentStatus, Refund


class MemoryGateway:
    """Confirms every charge; see `shop.payments.gateway.GatewayClient`."""

    def __init__(self, seconds: float = 0) -> None:
        """`seconds`: how long a charge takes."""
        self._seconds = seconds
        self._payments: dict[str, Payment] = {}
        self._of_order: dict[str, list[str]] = defaultdict(list)

    async def create(
        self, *, key: str, installation: str | None = None, **new: Unpack[NewPayment]
    ) -> Payment:
        del key
        order_id = new["order_id"]
        made = f"pay_{len(self._payments)}"
        self._of_order[order_id].append(made)
        zero = Decimal(0)
        self._payments[made] = Payment(
            made,
            order_id,
            PaymentStatus.CREATED,
            new["amount"],
            new["currency"],
            zero,
            zero,
            new["method"],
            datetime.now(UTC),
            None,
            None,
            (),
            installation,
            new.get("try_number", 1),
        )
        return self._payments[made]

    async def confirm(self, payment_id: str, *, key: str) -> Payment:
        del key
        if self._seconds:
            await asyncio.sleep(self._seconds)
        payment = self._payments[payment_id]
        if payment.status is PaymentStatus.CREATED:
            charged = replace(
                payment,
                status=PaymentStatus.SUCCEEDED,
                transaction_id=f"ch_{payment_id}",
                charged_at=datetime.now(UTC),
            )
            self._payments[payment_id] = charged
        return self._payments[payment_id]

    async def get(self, payment_id: str) -> Payment:
        return self._payments[payment_id]

    async def find(self, order_id: str, *, installation: str | None = None) -> list[Payment]:
        found = [self._payments[made] for made in self._of_order[order_id]]
        return [payment for payment in found if payment.installation == installation]

    async def pages(self, since: datetime) -> AsyncIterator[list[Payment]]:
        moved = (payment for payment in reversed(self._payments.values()) if payment.moved_at >= since)
        while page := list(islice(moved, 500)):
            yield page

    async def cancel(self, payment_id: str, *, key: str) -> Payment:
        del key
        payment = self._payments[payment_id]
        if payment.status is PaymentStatus.CREATED:
            self._payments[payment_id] = replace(payment, status=PaymentStatus.CANCELLED)
        return self._payments[payment_id]

    async def refund(self, payment_id: str, *, amount: Decimal, currency: str, key: str) -> Refund:
        del key
        payment = self._payments[payment_id]
        made = Refund(f"re_{payment_id}", payment_id, amount, currency, datetime.now(UTC))
        self._payments[payment_id] = replace(
            payment, amount_refunded=payment.amount_refunded + amount, refunds=(*payment.refunds, made)
        )
        return made

    async def aclose(self) -> None:
        """Does nothing: there is nothing to close."""
