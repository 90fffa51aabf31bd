"""The sandbox gateway without HTTP, for benchmarks and fast tests."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from http import HTTPStatus
from typing import TypeVar

from shop.errors import PaymentError, PaymentGatewayError, PaymentGatewayTimeout
from shop.payments.gateway import GatewayTotals, Payment, Refund
from shop.payments.sandbox.behaviour import Fate
from shop.payments.sandbox.ledger import Ledger
from shop.payments.sandbox.records import AnswerLost, Refusal
from shop.payments.sandbox_client import minor_units, to_error, to_payment, to_refund, to_totals

T = TypeVar("T")
_EVER = datetime(1970, 1, 1, tzinfo=UTC)


class InProcessGateway:
    """A `PaymentGateway` on a ledger in the same thread. It misbehaves as the ledger is told to, with the same typed errors as
    over HTTP; only that an answer that does not arrive is a `PaymentGatewayTimeout` at once."""

    def __init__(self, ledger: Ledger) -> None:
        """The ledger stays the caller's, who closes it."""
        self._ledger = ledger

    async def create(
        self, *, order_id: str, amount: Decimal, currency: str, method: str, card_last4: str | None, token: str | None, key: str
    ) -> Payment:
        units = minor_units(amount, currency)
        return to_payment(
            await self._serve(
                lambda: self._ledger.create(
                    order_id=order_id, amount=units, currency=currency, method=method, card_last4=card_last4, token=token, key=key
                )
            )
        )

    async def confirm(self, payment_id: str, *, key: str) -> Payment:
        return to_payment(await self._serve(lambda: self._ledger.confirm(payment_id, key=key)))

    async def get(self, payment_id: str) -> Payment:
        return to_payment(await self._serve(lambda: self._ledger.get(payment_id)))

    async def find(self, order_id: str) -> list[Payment]:
        return [to_payment(payment) for payment in await self._serve(lambda: self._ledger.find(order_id))]

    async def cancel(self, payment_id: str, *, key: str) -> Payment:
        return to_payment(await self._serve(lambda: self._ledger.cancel(payment_id, key=key)))

    async def refund(self, payment_id: str, *, amount: Decimal, currency: str, key: str) -> Refund:
        units = minor_units(amount, currency)
        return to_refund(await self._serve(lambda: self._ledger.refund(payment_id, amount=units, currency=currency, key=key)))

    async def totals(self, currency: str) -> GatewayTotals:
        """What was ever charged and refunded in that currency."""
        return to_totals(await self._serve(self._ledger.totals), currency)

    async def list_payments(self) -> AsyncIterator[Payment]:
        """Every payment there is, newest first. Those that are created meanwhile may be missing."""
        async for page in self.pages(_EVER):
            for payment in page:
                yield payment

    async def pages(self, since: datetime) -> AsyncIterator[list[Payment]]:
        after: str | None = None
        while True:
            page = await self._serve(partial(self._ledger.list, starting_after=after, since=since))
            if page.data:
                yield [to_payment(payment) for payment in page.data]
            if not page.has_more:
                return
            after = page.data[-1].id

    async def aclose(self) -> None:
        """There is nothing to close."""

    async def _serve(self, work: Callable[[], T]) -> T:
        fate = self._ledger.next_fate()
        if latency := self._ledger.behaviour.latency_ms:
            await asyncio.sleep(latency / 1000)
        if fate is Fate.FAILS_BEFORE:
            raise _told_to_fail()
        answer = _answer(work)
        if fate is Fate.FAILS_AFTER:
            raise _told_to_fail()
        if fate is Fate.HANGS:
            raise PaymentGatewayTimeout("the answer is lost")
        if isinstance(answer, PaymentError):
            raise answer
        return answer


def _answer(work: Callable[[], T]) -> T | PaymentError:
    """The error is returned, not raised: whether the caller hears of it is decided after the work."""
    try:
        return work()
    except Refusal as refusal:
        return to_error(refusal.status, refusal.code, refusal.message)
    except AnswerLost:
        return PaymentGatewayTimeout("the answer is lost")
    except sqlite3.Error as error:
        return to_error(HTTPStatus.INTERNAL_SERVER_ERROR, "storage_error", str(error))


def _told_to_fail() -> PaymentGatewayError:
    return PaymentGatewayError("internal_error", "the sandbox was told to fail", retryable=True)
