"""What a payment gateway can do for us, whichever it is.

Charging is two moves: `create` (costs nothing; its id is journalled) and `confirm` by that id. A payment that is
confirmed or cancelled stays so: confirming it again charges nothing, which is what makes a charge happen once even
against a gateway that forgets idempotency keys.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol


class PaymentStatus(StrEnum):
    CREATED = "created"
    """Nothing has been charged."""
    SUCCEEDED = "succeeded"
    """Charged. Refunds do not change this; see `Payment.amount_refunded`."""
    DECLINED = "declined"
    """The bank said no; nothing was charged."""
    CANCELLED = "cancelled"
    """Can never be charged any more."""
    UNREADABLE = "unreadable"
    """In a list only: the gateway's record of it makes no sense, and none of its amounts counts."""


@dataclass(frozen=True, slots=True)
class Refund:
    """Money that went back."""

    id: str
    payment_id: str
    amount: Decimal
    currency: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment as the gateway tells it."""

    id: str
    order_id: str
    status: PaymentStatus
    amount: Decimal
    currency: str
    amount_refunded: Decimal
    fee: Decimal
    method: str
    created_at: datetime
    transaction_id: str | None
    """The charge's own id, once there is one."""
    charged_at: datetime | None
    refunds: tuple[Refund, ...] = ()
    installation: str | None = None
    """The id of the installation that created it; None: it bears none."""

    @property
    def charged(self) -> Decimal:
        """What was really charged so far; nothing unless it succeeded."""
        return self.amount if self.status is PaymentStatus.SUCCEEDED else Decimal(0)

    @property
    def kept(self) -> Decimal:
        """What was charged and has not gone back."""
        return self.charged - self.amount_refunded

    @property
    def moved_at(self) -> datetime:
        """When anything happened to it last."""
        return max(self.created_at, self.charged_at or self.created_at, *(refund.created_at for refund in self.refunds))


@dataclass(frozen=True, slots=True)
class GatewayTotals:
    """The gateway's own ledger, summed: the witness that our books are checked against."""

    charged: Decimal
    refunded: Decimal


class PaymentGateway(Protocol):
    """The gateway as the shop uses it: it creates and finds this installation's payments only (`shop.payments.ownership`).

    Every method raises only `PaymentDeclined`, `PaymentGatewayTimeout` or `PaymentGatewayError` (`shop.payments.errors`); `create` also
    `PaymentRefused`, before anything is sent, and `confirm` also `PaymentNeedsCustomer`."""

    async def create(
        self, *, order_id: str, amount: Decimal, currency: str, method: str, card_last4: str | None, token: str | None, key: str
    ) -> Payment:
        """Registers a payment; nothing is charged. `key` is the idempotency key."""
        ...

    async def confirm(self, payment_id: str, *, key: str) -> Payment:
        """Charges it, or raises `PaymentDeclined`. On a payment that has succeeded it charges nothing and returns it;
        on a cancelled or declined one it raises `PaymentDeclined`."""
        ...

    async def get(self, payment_id: str) -> Payment:
        """The payment as it is now. Its `order_id` is empty if the payment is not this installation's."""
        ...

    async def find(self, order_id: str) -> list[Payment]:
        """Every payment that this installation ever created for the order, oldest first."""
        ...

    def pages(self, since: datetime) -> AsyncIterator[list[Payment]]:
        """Every payment of an order that was created, charged or refunded since then, with all its refunds, a page at a time. Those that
        are created while the pages are read may be missing."""
        ...

    async def cancel(self, payment_id: str, *, key: str) -> Payment:
        """Makes sure that the payment can never be charged. Returns it as it is: if it has succeeded meanwhile it
        stays succeeded, and the caller has to refund it."""
        ...

    async def refund(self, payment_id: str, *, amount: Decimal, currency: str, key: str) -> Refund:
        """Gives `amount` back. Raises `PaymentGatewayError(retryable=False)` when the gateway refuses for good."""
        ...

    async def aclose(self) -> None: ...


class GatewayClient(PaymentGateway, Protocol):
    """One gateway's client: knows the payments of everybody who shares the account."""

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
        """As `PaymentGateway.create`; the payment bears the installation id."""
        ...

    async def find(self, order_id: str, *, installation: str | None = None) -> list[Payment]:
        """Every payment for the order that bears this installation id (None: that bears none), oldest first."""
        ...

    async def get(self, payment_id: str) -> Payment:
        """The payment as it is now, whoever created it."""
        ...
