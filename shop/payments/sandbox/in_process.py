"""In-process sandbox gateway, without HTTP, for benchmarks and fast tests."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from http import HTTPStatus
from typing import TypeVar

from shop.payments.errors import BAD_ANSWER, PaymentError, PaymentGatewayError, PaymentGatewayTimeout
from shop.payments.gateway import GatewayTotals, Payment, PaymentStatus, Refund
from shop.payments.sandbox.answers import minor_units, to_error, to_payment, to_refund, to_totals
from shop.payments.sandbox.behaviour import ERRORS, Fate, Fault, FaultRule, Move
from shop.payments.sandbox.ledger import Ledger
from shop.payments.sandbox.records import AnswerLost, Refusal

T = TypeVar("T")
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class InProcessGateway:
    """A `GatewayClient` on a ledger in the same thread. It applies the ledger's faults, with the same typed
    errors as over HTTP, except that an answer that does not arrive raises `PaymentGatewayTimeout`
    immediately."""

    def __init__(self, ledger: Ledger) -> None:
        """The caller owns the ledger and closes it."""
        self._ledger = ledger

    async def create(
        self,
        *,
        order_id: str,
        amount: Decimal,
        currency: str,
        method: str,
        card_last4: str | None,
        token: str | None,
        key: str,
        try_number: int = 1,
        installation: str | None = None,
    ) -> Payment:
        units = minor_units(amount, currency)
        return to_payment(
            await self._serve(
                lambda: self._ledger.create(
                    order_id=order_id,
                    amount=units,
                    currency=currency,
                    method=method,
                    card_last4=card_last4,
                    token=token,
                    key=key,
                    try_number=try_number,
                    installation=installation,
                ),
                Move.CREATE,
                order_id=order_id,
            )
        )

    async def confirm(self, payment_id: str, *, key: str) -> Payment:
        record = await self._serve(
            lambda: self._ledger.confirm(payment_id, key=key), Move.CONFIRM, payment_id=payment_id
        )
        if record.status is not PaymentStatus.SUCCEEDED:
            raise PaymentGatewayError(BAD_ANSWER, "neither a charge nor a refusal", retryable=True)
        return to_payment(record)

    async def get(self, payment_id: str) -> Payment:
        return to_payment(
            await self._serve(lambda: self._ledger.get(payment_id), Move.GET, payment_id=payment_id)
        )

    async def find(self, order_id: str, *, installation: str | None = None) -> list[Payment]:
        found = await self._serve(
            lambda: self._ledger.find(order_id, installation), Move.FIND, order_id=order_id
        )
        return [to_payment(payment) for payment in found if payment.installation == installation]

    async def cancel(self, payment_id: str, *, key: str) -> Payment:
        return to_payment(
            await self._serve(
                lambda: self._ledger.cancel(payment_id, key=key), Move.CANCEL, payment_id=payment_id
            )
        )

    async def refund(self, payment_id: str, *, amount: Decimal, currency: str, key: str) -> Refund:
        units = minor_units(amount, currency)
        return to_refund(
            await self._serve(
                lambda: self._ledger.refund(payment_id, amount=units, currency=currency, key=key),
                Move.REFUND,
                payment_id=payment_id,
            )
        )

    async def totals(self, currency: str) -> GatewayTotals:
        """Returns what was ever charged and refunded in that currency."""
        return to_totals(await self._serve(self._ledger.totals, Move.LIST), currency)

    async def list_payments(self) -> AsyncIterator[Payment]:
        """Yields every payment, newest first. Payments that are created meanwhile may be missing."""
        async for page in self.pages(_BEGINNING):
            for payment in page:
                yield payment

    async def pages(self, since: datetime) -> AsyncIterator[list[Payment]]:
        after: str | None = None
        while True:
            page = await self._serve(partial(self._ledger.list, starting_after=after, since=since), Move.LIST)
            if page.data:
                yield [to_payment(payment) for payment in page.data]
            if not page.has_more:
                return
            after = page.data[-1].id

    async def aclose(self) -> None:
        """Does nothing: there are no connections."""

    async def _serve(
        self, work: Callable[[], T], move: Move, *, order_id: str | None = None, payment_id: str | None = None
    ) -> T:
        if (rule := self._ledger.next_fault(move, order_id=order_id, payment_id=payment_id)) is not None:
            return await self._inject(rule, work, payment_id)
        fate = self._ledger.next_fate()
        if latency := self._ledger.behaviour.latency_ms:
            await asyncio.sleep(latency / 1000)
        if fate is Fate.FAILS_BEFORE:
            raise _injected_error()
        answer = _answer(work)
        if fate is Fate.FAILS_AFTER:
            raise _injected_error()
        if fate is Fate.HANGS:
            raise PaymentGatewayTimeout("the answer is lost")
        return _unwrap(answer)

    async def _inject(self, rule: FaultRule, work: Callable[[], T], payment_id: str | None) -> T:
        """Applies the rule's fault to the request."""
        match rule.fault:
            case Fault.ERROR_500 | Fault.ERROR_502 | Fault.ERROR_429:
                raise _injected_error(ERRORS[rule.fault])
            case Fault.RESET_BEFORE:
                raise _reset()
            case Fault.WEB_PAGE:
                raise _bad_answer()
            case Fault.DUPLICATE:
                raise to_error(
                    HTTPStatus.CONFLICT, "duplicate_request", "this is a duplicate of an earlier request"
                )
            case Fault.STALE:
                return ()  # type: ignore[return-value]  # of an order's payments
            case Fault.PROCESSING if payment_id is not None:
                return _unwrap(_answer(lambda: self._ledger.confirm_later(payment_id, rule.ms)))  # type: ignore[return-value]
            case Fault.LATE:
                asyncio.get_running_loop().call_later(rule.ms / 1000, _answer, work)
                raise PaymentGatewayTimeout("the answer is lost")
        await asyncio.sleep(rule.ms / 1000)
        answer = _answer(work)
        match rule.fault:
            case Fault.ERROR_500_AFTER:
                raise _injected_error(ERRORS[rule.fault])
            case Fault.RESET_AFTER:
                raise _reset()
            case Fault.GARBAGE | Fault.TRUNCATED:
                raise _bad_answer()
        return _unwrap(answer)


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


def _unwrap(answer: T | PaymentError) -> T:
    if isinstance(answer, PaymentError):
        raise answer
    return answer


def _injected_error(status: HTTPStatus = HTTPStatus.INTERNAL_SERVER_ERROR) -> PaymentError:
    code = "internal_error" if status == HTTPStatus.INTERNAL_SERVER_ERROR else status.name.lower()
    return to_error(status, code, "the sandbox is configured to fail")


def _reset() -> PaymentError:
    return PaymentGatewayError("connection_lost", "the connection broke", retryable=True)


def _bad_answer() -> PaymentError:
    return PaymentGatewayError(
        BAD_ANSWER, "the payment gateway's answer could not be interpreted", retryable=True
    )
