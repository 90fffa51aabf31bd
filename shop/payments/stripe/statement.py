"""Queries for payments at Stripe: by id, by order, by time of the last change;
and for a payment's refunds."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from saga.clock import Now
from shop.payments.errors import PaymentGatewayError
from shop.payments.stripe.calls import NotAccepted, StripeCalls
from shop.payments.stripe.records import (
    FoundPage,
    Intent,
    IntentPage,
    OddIntent,
    ReferencePage,
    RefundList,
    RefundRecord,
    WaitingIntent,
    expect,
    read,
)

PAGE = 100
"""Stripe's maximum page size."""
EXPAND = ["latest_charge.balance_transaction", "latest_charge.refunds"]
"""The nested objects that `Payment` needs."""
_EXPAND_EACH = [f"data.{each}" for each in EXPAND]
_LOOK_BACK = timedelta(days=2)
"""Limits the age of payments in the list, where search is not available."""
_ID = re.compile(r"pi_[A-Za-z0-9_]{1,100}")
_P = TypeVar("_P", IntentPage, ReferencePage, RefundList)


class StripeStatement:
    """Queries for payments. Stripe's lists are sorted from newest to oldest."""

    def __init__(self, calls: StripeCalls, page: int, now: Now) -> None:
        self._calls, self._page, self._now = calls, page, now
        self._searchable = True

    async def intent(self, payment_id: str) -> Intent:
        intent = read(Intent, await self._retrieve(payment_id, expand=EXPAND))
        expect(intent.id == payment_id, "another payment than was asked for")
        return intent

    async def waiting(self, payment_id: str) -> WaitingIntent:
        """Returns the payment with its client secret."""
        waiting = read(WaitingIntent, await self._retrieve(payment_id))
        expect(waiting.id == payment_id, "another payment than was asked for")
        return waiting

    async def _intent_or_odd(self, payment_id: str) -> Intent | OddIntent:
        answer = await self._retrieve(payment_id, expand=EXPAND)
        (intent,) = read(IntentPage, {"data": [answer], "has_more": False}).data
        expect(intent.id == payment_id, "another payment than was asked for")
        return intent

    async def _retrieve(self, payment_id: str, **params: Any) -> dict[str, Any]:
        checked: Any = params
        return await self._calls(
            lambda s: s.v1.payment_intents.retrieve_async(checked_id(payment_id), checked)
        )

    async def of_order(self, order_id: str, installation: str | None) -> list[Intent]:
        """Returns the current state of the payments that the installation (None: an earlier version) created
        for the order, as far as they can be found (see `shop.payments.stripe.gateway`)."""
        found = {intent.id: intent for intent in await self._search(order_id, installation)}
        async for page in self._intents(await self._now() - _LOOK_BACK):
            readable = [intent for intent in page if isinstance(intent, Intent)]
            odd = [
                each
                for each in page
                if isinstance(each, OddIntent) and each.owner == (order_id, installation)
            ]
            expect(not odd, "a payment of the order that could not be interpreted")
            found |= {intent.id: intent for intent in readable if intent.belongs_to(order_id, installation)}
            if self._searchable:
                break  # search finds older ones
        return sorted(found.values(), key=lambda intent: (intent.created, intent.id))

    async def moved(self, since: datetime) -> AsyncIterator[Sequence[Intent | OddIntent]]:
        """Yields the account's payments that were created since then, then older ones that were charged, then
        those that were refunded. One without an order's id may be an order's that was paid already."""
        seen: set[str] = set()
        async for page in self._intents(since):
            seen |= {intent.id for intent in page}
            yield page
        for listing in ("charges", "refunds"):
            async for references in self._pages(ReferencePage, listing, since):
                ids = {
                    each.payment_intent
                    for each in references.data
                    if each.payment_intent and each.created >= since.timestamp() // 1
                }
                older = [await self._intent_or_odd(payment_id) for payment_id in sorted(ids - seen)]
                seen |= ids
                before = _whole_second(since).timestamp()
                yield [each for each in older if each.created < before]

    async def refunds(self, intent: Intent) -> Sequence[RefundRecord]:
        """Returns all refunds of the payment, as its charge has only the latest."""
        if intent.latest_charge is None:
            return []
        shown = intent.latest_charge.refunds
        if shown is not None and not shown.has_more:
            return shown.data
        return [
            refund
            async for page in self._pages(RefundList, "refunds", payment_intent=intent.id)
            for refund in page.data
        ]

    async def _search(self, order_id: str, installation: str | None) -> list[Intent]:
        if not self._searchable:
            return []
        quoted = order_id.replace("\\", "\\\\").replace("'", "\\'")
        mark = "" if installation is None else f" AND metadata['installation']:'{installation}'"
        params: Any = {"query": f"metadata['order_id']:'{quoted}'{mark}", "limit": PAGE}
        try:
            page = read(FoundPage, await self._calls(lambda s: s.v1.payment_intents.search_async(params)))
        except PaymentGatewayError as error:
            if not (isinstance(error, NotAccepted) or error.error_code == "permission"):
                raise
            self._searchable = False  # not available in all regions, nor with every API key
            return []
        expect(not page.has_more, "a part of the order's payments only")
        # Search ignores case, and does not have recent changes.
        intents = [await self.intent(found.id) for found in page.data]
        return [intent for intent in intents if intent.belongs_to(order_id, installation)]

    async def _intents(self, since: datetime) -> AsyncIterator[list[Intent | OddIntent]]:
        """Yields pages of all payments that were created since then."""
        async for page in self._pages(IntentPage, "payment_intents", since, expand=_EXPAND_EACH):
            yield [intent for intent in page.data if intent.created >= _whole_second(since).timestamp()]

    async def _pages(
        self, shape: type[_P], listing: str, since: datetime | None = None, **query: Any
    ) -> AsyncIterator[_P]:
        """Yields pages of a list of Stripe's until the first one with older objects only."""
        query["limit"] = self._page
        seen: set[str] = set()
        while True:
            page = read(shape, await self._calls(lambda s: getattr(s.v1, listing).list_async(query)))
            ids: list[str] = [each.id for each in page.data]
            expect(bool(ids) or not page.has_more, "an empty page with more to come")
            expect(len({*ids}) == len(ids) and not seen.intersection(ids[-1:]), "pages that go in circles")
            yield page
            if not page.has_more or (
                since is not None and all(each.created < since.timestamp() // 1 for each in page.data)
            ):
                return
            seen.add(ids[-1])
            query["starting_after"] = ids[-1]


def checked_id(payment_id: str) -> str:
    """Returns the id, if it is the id of a PaymentIntent."""
    if not _ID.fullmatch(payment_id):
        raise PaymentGatewayError("no_such_payment", "this is not the id of a PaymentIntent", retryable=False)
    return payment_id


def _whole_second(when: datetime) -> datetime:
    """Returns the time without fractions of a second, like Stripe's times."""
    return when.replace(microsecond=0)
