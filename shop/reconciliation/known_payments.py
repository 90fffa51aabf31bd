"""A gateway whose incomplete search (recent or old payments) is complemented by known payment ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from shop.payments.gateway import Payment, PaymentGateway


def known_payments(gateway: PaymentGateway, payment_ids: Sequence[str | None]) -> PaymentGateway:
    """Returns the gateway with a `find` that also returns these payments of the order."""
    return cast(PaymentGateway, _WithKnownPayments(gateway, payment_ids))


class _WithKnownPayments:
    def __init__(self, gateway: PaymentGateway, payment_ids: Sequence[str | None]) -> None:
        self._gateway, self._ids = gateway, [each for each in dict.fromkeys(payment_ids) if each]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._gateway, name)

    async def find(self, order_id: str) -> list[Payment]:
        found = await self._gateway.find(order_id)
        seen = {payment.id for payment in found}
        known = [await self._gateway.get(each) for each in self._ids if each not in seen]
        return [*found, *(payment for payment in known if payment.order_id == order_id)]
