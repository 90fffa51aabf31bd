"""Stripe, as a `PaymentGateway`: PaymentIntents, paid by a PaymentMethod that the shop's page has made (`token`).

A card number never passes through us, and the last four digits charge nothing: without a token `create` raises `PaymentRefused`.

- **Once.** A PaymentIntent succeeds once, whoever confirms it. A confirmation that is not accepted is looked up by id before anything is
  decided about it; so is every other answer than a success. A refund is looked up first, too: it carries its key as metadata.
- **Looking up by order.** Stripe cannot list by metadata. Its search can, but shows what has happened only a minute later (an hour, on a
  bad day), and not everywhere. So `find` takes ids from the search and from the newest intents of the list, and looks each up by its id,
  which is never late. Where there is no search, it goes through the list of the last two days. What it may miss costs nothing: an id
  is journalled before it is confirmed, and an intent whose id was lost is what Stripe returns to the same key again, for a day.
- **Waiting.** While a bank asks the customer (`requires_action`), `confirm` raises `PaymentNeedsCustomer`; after `customer_minutes` it
  cancels the payment and raises `PaymentLapsed`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from saga.clock import Now, machine_time
from shop.payments.errors import BAD_ANSWER, PaymentGatewayError, PaymentLapsed, PaymentNeedsCustomer, PaymentRefused
from shop.payments.gateway import Payment, PaymentStatus, Refund
from shop.payments.stripe.calls import StripeCalls
from shop.payments.stripe.errors import NotAccepted, StoredFailure
from shop.payments.stripe.money import to_units
from shop.payments.stripe.records import Intent, OddIntent, RefundRecord, expect, read, to_payment, to_refund, to_unreadable
from shop.payments.stripe.statement import EXPAND, PAGE, StripeStatement, checked_id

_TOKEN = re.compile(r"(pm|card|src)_[A-Za-z0-9_]{1,100}")
_MOST_PATIENT, _LEAST_PATIENT = 60.0, 5.0
"""Seconds between two looks at a payment that waits for its customer."""


class StripeGateway:
    """A `GatewayClient` over one pool of at most `concurrency` connections. No call to Stripe takes longer than `timeout_seconds`; some
    methods make several."""

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
        """`now`: the time that Stripe's is compared with."""
        self._calls = StripeCalls(url, api_key, timeout_seconds, concurrency)
        self._statement = StripeStatement(self._calls, page, now)
        self._now = now
        self._customer_time = timedelta(minutes=customer_minutes)

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
        installation: str | None = None,
    ) -> Payment:
        """Raises `PaymentRefused` without a PaymentMethod to charge, and `PaymentGatewayError` for an amount that Stripe cannot charge."""
        if token is None:
            given = "the card's last four digits charge nothing" if card_last4 else "there is none"
            raise PaymentRefused(f"Stripe charges by payment_info.token, the id of a PaymentMethod: {given}")
        if not _TOKEN.fullmatch(token):
            raise PaymentRefused("payment_info.token is not the id of a PaymentMethod at Stripe")
        params: Any = {
            "amount": to_units(amount, currency),
            "currency": currency.lower(),
            "payment_method": token,
            "payment_method_types": ["card"],
            "capture_method": "automatic",
            "metadata": {"order_id": order_id, "method": method} | ({"installation": installation} if installation else {}),
            "expand": EXPAND,
        }

        async def ask(key: str) -> Intent:
            return read(Intent, await self._calls(lambda s: s.v1.payment_intents.create_async(params, {"idempotency_key": key}), key=key))

        intent = await self._calls.insist(ask, key)
        expected = (order_id, params["amount"], params["currency"], installation)
        told = (intent.order_id, intent.amount, intent.currency, intent.installation)
        expect(told == expected, "another payment than was created")
        return to_payment(intent)

    async def confirm(self, payment_id: str, *, key: str) -> Payment:
        """Raises `PaymentNeedsCustomer` while the customer's bank waits for the customer."""
        params: Any = {"expand": EXPAND}

        async def ask(key: str) -> Payment:
            refused: PaymentGatewayError | None = None
            try:
                answer = await self._calls(
                    lambda s: s.v1.payment_intents.confirm_async(checked_id(payment_id), params, {"idempotency_key": key}), key=key
                )
            except NotAccepted as error:  # it has succeeded already, for example
                refused = error
            else:
                intent = read(Intent, answer)
                expect(intent.id == payment_id, "another payment than was confirmed")
                if intent.status == "succeeded":
                    return to_payment(intent)
            # Stripe repeats what it first answered to a key: only a look-up says what has become of it.
            return await self._decide(await self._statement.intent(payment_id), key, refused)

        return await self._calls.insist(ask, key)

    async def get(self, payment_id: str) -> Payment:
        return await self._payment(await self._statement.intent(payment_id))

    async def find(self, order_id: str, *, installation: str | None = None) -> list[Payment]:
        return [await self._payment(intent) for intent in await self._statement.of_order(order_id, installation)]

    async def pages(self, since: datetime) -> AsyncIterator[list[Payment]]:
        async for intents in self._statement.moved(since):
            if intents:
                yield [await self._listed(intent) for intent in intents]

    async def cancel(self, payment_id: str, *, key: str) -> Payment:
        checked = checked_id(payment_id)

        async def ask(key: str) -> Payment:
            refused: NotAccepted | None = None
            try:
                await self._calls(lambda s: s.v1.payment_intents.cancel_async(checked, {}, {"idempotency_key": key}), key=key)
            except NotAccepted as error:
                refused = error
            intent = await self._statement.intent(payment_id)
            if intent.status == "processing":
                raise _processing()
            payment = await self._payment(intent)
            if payment.status is PaymentStatus.CREATED:
                if refused is not None and refused.next_key is not None:
                    raise StoredFailure(refused.error_code, refused.error_message, next_key=refused.next_key)
                raise refused or PaymentGatewayError(BAD_ANSWER, "Stripe answered a payment that can still be charged", retryable=True)
            return payment

        return await self._calls.insist(ask, key)

    async def refund(self, payment_id: str, *, amount: Decimal, currency: str, key: str) -> Refund:
        units = to_units(amount, currency)
        params: Any = {"payment_intent": checked_id(payment_id), "amount": units, "metadata": {"key": key}}

        async def ask(key: str) -> Refund:
            intent = await self._statement.intent(payment_id)
            made = [refund for refund in await self._statement.refunds(intent) if refund.counts]
            for refund in made:
                if refund.metadata.get("key") == params["metadata"]["key"]:
                    expect(refund.amount == units, "another refund than was asked for")
                    return to_refund(refund, payment_id)
            if intent.status != "succeeded" or intent.currency != currency.lower():
                raise PaymentGatewayError("not_refundable", f"nothing was charged in {currency}", retryable=False)
            if sum(refund.amount for refund in made) + units > intent.amount:
                raise PaymentGatewayError("refund_too_large", "more than is left of the charge", retryable=False)
            refund = read(RefundRecord, await self._calls(lambda s: s.v1.refunds.create_async(params, {"idempotency_key": key}), key=key))
            expect((refund.amount, refund.currency) == (units, currency.lower()), "another refund than was asked for")
            expect(refund.payment_intent in {payment_id, None}, "another payment's refund")
            if not refund.counts:
                raise PaymentGatewayError("refund_failed", f"Stripe could not give the money back ({refund.status})", retryable=False)
            return to_refund(refund, payment_id)

        return await self._calls.insist(ask, key)

    async def aclose(self) -> None:
        """Closes the connections; the next call makes new ones."""
        await self._calls.aclose()

    # -- what a payment is now --

    async def _payment(self, intent: Intent) -> Payment:
        return to_payment(intent, await self._statement.refunds(intent))

    async def _listed(self, intent: Intent | OddIntent) -> Payment:
        """One that contradicts itself does not keep the others from being listed."""
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
        raise refused or PaymentGatewayError(BAD_ANSWER, "Stripe answered neither a charge nor a refusal", retryable=True)

    async def _wait_for_customer(self, intent: Intent, key: str) -> Payment:
        waiting = await self._now() - intent.created_at
        if waiting < self._customer_time:
            pause = min(_MOST_PATIENT, max(_LEAST_PATIENT, waiting.total_seconds() / 5))
            raise PaymentNeedsCustomer(max(1.0, min(pause, (self._customer_time - waiting).total_seconds())))
        payment = await self.cancel(intent.id, key=f"late-{key}"[:255])
        if payment.status is PaymentStatus.SUCCEEDED:  # in the last moment
            return payment
        raise PaymentLapsed("requires_action", "the customer did not authenticate the payment in time")


def _processing() -> PaymentGatewayError:
    """Neither charged nor refused: it may still become either."""
    error = PaymentGatewayError("processing", "the bank has not decided about the payment yet", retryable=True)
    error.retry_after = _LEAST_PATIENT
    return error
