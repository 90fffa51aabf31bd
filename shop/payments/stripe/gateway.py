"""Stripe as a `PaymentGateway`: PaymentIntents with a PaymentMethod that the shop's page created (`token`).

The shop never handles card numbers, and the last four digits cannot be charged: without a token, `create`
raises `PaymentRefused`.

- **Once.** A PaymentIntent succeeds once, whoever confirms it. After any answer other than a success,
  including a refused confirmation, the payment is looked up by id before anything is decided. A refund is
  looked up first, too: it has its key as metadata.
- **Lookup by order.** Stripe cannot list by metadata. Its search can, but with a delay of a minute (up to an
  hour in bad conditions), and not in all regions. Therefore `find` takes ids from the search and from the
  first page of the list, and looks up each by its id, which has no delay. Without search, it reads the list
  of the last two days. Payments that it misses are harmless: an id is journalled before it is confirmed, and
  for a day Stripe returns an intent whose id was lost to the same key.
- **Waiting.** While the bank waits for the customer (`requires_action`), `confirm` raises
  `PaymentNeedsCustomer`; after `customer_minutes` it cancels the payment and raises `PaymentLapsed`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Unpack

from saga.clock import Now, machine_time
from shop.payments.errors import (
    BAD_ANSWER,
    PaymentError,
    PaymentGatewayError,
    PaymentLapsed,
    PaymentNeedsCustomer,
    PaymentRefused,
    bad_answer,
)
from shop.payments.gateway import NewPayment, Payment, PaymentStatus, Refund
from shop.payments.stripe.calls import NotAccepted, StoredFailure, StripeCalls
from shop.payments.stripe.records import (
    Intent,
    OddIntent,
    RefundRecord,
    expect,
    read,
    to_payment,
    to_refund,
    to_units,
    to_unreadable,
)
from shop.payments.stripe.statement import EXPAND, PAGE, StripeStatement, checked_id

_TOKEN = re.compile(r"(pm|card|src)_[A-Za-z0-9_]{1,100}")
_LONGEST_PAUSE, _SHORTEST_PAUSE = 60.0, 5.0
"""Limit the pause between two lookups of a payment that waits for its customer, in seconds."""


class StripeGateway:
    """A `GatewayClient` with one pool of at most `concurrency` connections. `timeout_seconds` limits each
    call to Stripe; some methods make several."""

    def __init__(
        self,
        url: str,
        api_key: str,
        timeout_seconds: float,
        concurrency: int,
        *,
        customer_minutes: float = 60,
        page: int = PAGE,
        now: Now = machine_time,
    ) -> None:
        """`now` returns the time with which Stripe's times are compared."""
        self._calls = StripeCalls(url, api_key, timeout_seconds, concurrency)
        self._statement = StripeStatement(self._calls, page, now)
        self._now = now
        self._customer_time = timedelta(minutes=customer_minutes)

    async def create(
        self, *, key: str, installation: str | None = None, **new: Unpack[NewPayment]
    ) -> Payment:
        """Registers a payment. Raises `PaymentRefused` without a PaymentMethod to charge, and
        `PaymentGatewayError` for an amount that Stripe cannot charge."""
        order_id, token, try_number = new["order_id"], new["token"], new.get("try_number", 1)
        digits = new["card_last4"]
        if token is None:
            problem = "the card's last four digits cannot be charged" if digits else "there is none"
            raise PaymentRefused(
                f"Stripe charges by payment_info.token, the id of a PaymentMethod: {problem}"
            )
        if not _TOKEN.fullmatch(token):
            raise PaymentRefused("payment_info.token is not the id of a PaymentMethod at Stripe")
        params: Any = {
            "amount": to_units(new["amount"], new["currency"]),
            "currency": new["currency"].lower(),
            "payment_method": token,
            "payment_method_types": ["card"],
            "capture_method": "automatic",
            "metadata": {"order_id": order_id, "method": new["method"]}
            | ({"installation": installation} if installation else {})
            | ({"try": str(try_number)} if try_number > 1 else {}),
            "expand": EXPAND,
        }

        async def ask(key: str) -> Intent:
            return read(
                Intent,
                await self._calls(
                    lambda s: s.v1.payment_intents.create_async(params, {"idempotency_key": key}), key=key
                ),
            )

        intent = await self._calls.insist(ask, key)
        expected = (order_id, params["amount"], params["currency"], installation, try_number)
        created = (intent.order_id, intent.amount, intent.currency, intent.installation, intent.try_number)
        expect(created == expected, "another payment than was created")
        return to_payment(intent)

    async def confirm(self, payment_id: str, *, key: str) -> Payment:
        """Charges the payment. Raises `PaymentNeedsCustomer` while the customer's bank waits for the
        customer."""
        params: Any = {"expand": EXPAND}

        async def ask(key: str) -> Payment:
            refused: PaymentGatewayError | None = None
            try:
                answer = await self._calls(
                    lambda s: s.v1.payment_intents.confirm_async(
                        checked_id(payment_id), params, {"idempotency_key": key}
                    ),
                    key=key,
                )
            except NotAccepted as error:  # for example because it has already succeeded
                refused = error
            else:
                intent = read(Intent, answer)
                expect(intent.id == payment_id, "another payment than was confirmed")
                if intent.status == "succeeded":
                    return to_payment(intent)
            # Stripe repeats its first answer to a key: only a lookup shows the current state.
            return await self._decide(await self._statement.intent(payment_id), key, refused)

        return await self._calls.insist(ask, key)

    async def get(self, payment_id: str) -> Payment:
        return await self._payment(await self._statement.intent(payment_id))

    async def client_secret(self, payment_id: str) -> str | None:
        """Returns the client secret while the bank waits for the customer; else None."""
        waiting = await self._statement.waiting(payment_id)
        return waiting.client_secret.get_secret_value() if waiting.needs_customer else None

    async def find(self, order_id: str, *, installation: str | None = None) -> list[Payment]:
        return [
            await self._payment(intent) for intent in await self._statement.of_order(order_id, installation)
        ]

    async def pages(self, since: datetime) -> AsyncIterator[list[Payment]]:
        async for intents in self._statement.moved(since):
            if intents:
                yield [await self._listed(intent) for intent in intents]

    async def cancel(self, payment_id: str, *, key: str) -> Payment:
        checked = checked_id(payment_id)

        async def ask(key: str) -> Payment:
            refused: NotAccepted | None = None
            try:
                await self._calls(
                    lambda s: s.v1.payment_intents.cancel_async(checked, {}, {"idempotency_key": key}),
                    key=key,
                )
            except NotAccepted as error:
                refused = error
            intent = await self._statement.intent(payment_id)
            if intent.status == "processing":
                raise _processing()
            payment = await self._payment(intent)
            if payment.status is PaymentStatus.CREATED:
                if refused is not None and refused.next_key is not None:
                    raise StoredFailure(refused.error_code, refused.error_message, next_key=refused.next_key)
                raise refused or bad_answer("Stripe answered a payment that can still be charged")
            return payment

        return await self._calls.insist(ask, key)

    async def refund(self, payment_id: str, *, amount: Decimal, currency: str, key: str) -> Refund:
        units = to_units(amount, currency)
        params: Any = {"payment_intent": checked_id(payment_id), "amount": units, "metadata": {"key": key}}

        async def ask(key: str) -> Refund:
            try:
                intent = await self._statement.intent(payment_id)
                made = [refund for refund in await self._statement.refunds(intent) if refund.counts]
            except PaymentError as error:
                error.before_request = True
                raise
            for refund in made:
                if refund.metadata.get("key") == params["metadata"]["key"]:
                    expect(refund.amount == units, "another refund than was asked for")
                    return to_refund(refund, payment_id)
            if intent.status != "succeeded" or intent.currency != currency.lower():
                raise PaymentGatewayError(
                    "not_refundable", f"nothing was charged in {currency}", retryable=False
                )
            if sum(refund.amount for refund in made) + units > intent.amount:
                raise PaymentGatewayError(
                    "refund_too_large", "the refund is more than what is left of the charge", retryable=False
                )
            refund = read(
                RefundRecord,
                await self._calls(
                    lambda s: s.v1.refunds.create_async(params, {"idempotency_key": key}), key=key
                ),
            )
            expect(
                (refund.amount, refund.currency) == (units, currency.lower()),
                "another refund than was asked for",
            )
            expect(refund.payment_intent in {payment_id, None}, "another payment's refund")
            if not refund.counts:
                raise PaymentGatewayError(
                    "refund_failed", f"the refund failed at Stripe ({refund.status})", retryable=False
                )
            return to_refund(refund, payment_id)

        return await self._calls.insist(ask, key)

    async def aclose(self) -> None:
        """Closes the connections; the next call opens new ones."""
        await self._calls.aclose()

    # -- a payment's current state --

    async def _payment(self, intent: Intent) -> Payment:
        return to_payment(intent, await self._statement.refunds(intent))

    async def _listed(self, intent: Intent | OddIntent) -> Payment:
        """Returns the payment. One that contradicts itself is marked as unreadable, so that the others can be
        listed."""
        if isinstance(intent, OddIntent):
            return to_unreadable(intent)
        try:
            return await self._payment(intent)
        except PaymentGatewayError as error:
            if error.error_code != BAD_ANSWER:
                raise
            return to_unreadable(intent)

    async def _decide(self, intent: Intent, key: str, refused: PaymentGatewayError | None) -> Payment:
        if intent.status == "succeeded":
            return await self._payment(intent)
        if intent.declined:
            raise intent.refusal()
        if intent.status == "canceled":
            raise PaymentLapsed("canceled", "the payment was cancelled before it was confirmed")
        if intent.status == "processing":
            raise _processing()
        if intent.status == "requires_action":
            return await self._wait_for_customer(intent, key)
        raise refused or bad_answer("Stripe answered neither a charge nor a refusal")

    async def _wait_for_customer(self, intent: Intent, key: str) -> Payment:
        waiting = await self._now() - intent.created_at
        if waiting < self._customer_time:
            pause = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, waiting.total_seconds() / 5))
            raise PaymentNeedsCustomer(max(1.0, min(pause, (self._customer_time - waiting).total_seconds())))
        payment = await self.cancel(intent.id, key=f"late-{key}"[:255])
        if payment.status is PaymentStatus.SUCCEEDED:  # just before it was cancelled
            return payment
        raise PaymentLapsed("requires_action", "the customer did not authenticate the payment in time")


def _processing() -> PaymentGatewayError:
    """Returns the error for a payment that may still be charged or refused."""
    message = "the bank has not decided about the payment yet"
    return PaymentGatewayError("processing", message, retryable=True, retry_after=_SHORTEST_PAUSE)
