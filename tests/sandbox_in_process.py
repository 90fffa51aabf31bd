"""The sandbox gateway in the same thread, without HTTP, for fast tests."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from decimal import Decimal
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar, Unpack

from shop.payments.errors import PaymentError, PaymentGatewayTimeout, bad_answer
from shop.payments.gateway import NewPayment, Payment, PaymentStatus, Refund
from shop.payments.sandbox.behaviour import Fate
from shop.payments.sandbox.client import minor_units, to_error, to_payment, to_refund
from shop.payments.sandbox.ledger import Ledger
from shop.payments.sandbox.records import AnswerLost, Refusal

T = TypeVar("T")


class InProcessGateway:
    """A `GatewayClient` on a ledger in the same thread, with the same typed errors as over HTTP. An answer
    that does not arrive raises `PaymentGatewayTimeout` immediately. Ignores faults for single orders, and the
    latency."""

    def __init__(self, ledger: Ledger) -> None:
        """The caller owns the ledger and closes it."""
        self._ledger = ledger

    async def create(
        self, *, key: str, installation: str | None = None, **new: Unpack[NewPayment]
    ) -> Payment:
        units = minor_units(new["amount"], new["currency"])
        request: Any = {**new, "amount": units, "installation": installation, "key": key}
        return to_payment(await self._serve(lambda: self._ledger.create(**request)))

    async def confirm(self, payment_id: str, *, key: str) -> Payment:
        record = await self._serve(lambda: self._ledger.confirm(payment_id, key=key))
        if record.status is not PaymentStatus.SUCCEEDED:
            raise bad_answer("neither a charge nor a refusal")
        return to_payment(record)

    async def get(self, payment_id: str) -> Payment:
        return to_payment(await self._serve(lambda: self._ledger.get(payment_id)))

    async def find(self, order_id: str, *, installation: str | None = None) -> list[Payment]:
        found = await self._serve(lambda: self._ledger.find(order_id, installation))
        return [to_payment(payment) for payment in found if payment.installation == installation]

    async def cancel(self, payment_id: str, *, key: str) -> Payment:
        return to_payment(await self._serve(lambda: self._ledger.cancel(payment_id, key=key)))

    async def refund(self, payment_id: str, *, amount: Decimal, currency: str, key: str) -> Refund:
        units = minor_units(amount, currency)
        return to_refund(
            await self._serve(
                lambda: self._ledger.refund(payment_id, amount=units, currency=currency, key=key),
            )
        )

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
        """Does nothing: there are no connections."""

    async def _serve(self, work: Callable[[], T]) -> T:
        fate = self._ledger.next_fate()
        if fate is Fate.FAILS_BEFORE:
            raise _injected_error()
        answer = _answer(work)
        if fate is Fate.FAILS_AFTER:
            raise _injected_error()
        if fate is Fate.HANGS:
            raise PaymentGatewayTimeout("the answer is lost")
        if isinstance(answer, PaymentError):
            raise answer
        return answer


def _answer(work: Callable[[], T]) -> T | PaymentError:
    """Does the work. Returns its error instead of raising it, as the fault decides afterwards what the caller
    gets."""
    try:
        return work()
    except Refusal as refusal:
        return to_error(refusal.status, refusal.code, refusal.message)
    except AnswerLost:
        return PaymentGatewayTimeout("the answer is lost")
    except sqlite3.Error as error:
        return to_error(HTTPStatus.INTERNAL_SERVER_ERROR, "storage_error", str(error))


def _injected_error() -> PaymentError:
    return to_error(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "the sandbox is configured to fail")
