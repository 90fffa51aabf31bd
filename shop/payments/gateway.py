"""The payment gateway interface.

Charging takes two calls: `create` (moves no money; its id is journalled) and `confirm` by that id. A payment
that is confirmed or cancelled stays so: confirming it again charges nothing. This makes a charge happen once
even with a gateway that forgets idempotency keys.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NotRequired, Protocol, TypedDict, Unpack, runtime_checkable


class PaymentStatus(StrEnum):
    CREATED = "created"
    """Nothing has been charged."""
    SUCCEEDED = "succeeded"
    """Charged. Refunds do not change this; see `Payment.amount_refunded`."""
    DECLINED = "declined"
    """Declined by the bank; nothing was charged."""
    CANCELLED = "cancelled"
    """Can never be charged."""
    UNREADABLE = "unreadable"
    """In lists only: the gateway's record could not be interpreted, and none of its amounts counts."""


@dataclass(frozen=True, slots=True)
class Refund:
    id: str
    payment_id: str
    amount: Decimal
    currency: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment as the gateway reports it."""

    id: str
    order_id: str
    status: PaymentStatus
    amount: Decimal
    currency: str
    amount_refunded: Decimal
    fee: Decimal
    method: str
    created_at: datetime
    transaction_id: str | None = None
    """The charge's own id, once there is one."""
    charged_at: datetime | None = None
    refunds: tuple[Refund, ...] = ()
    installation: str | None = None
    """The id of the installation that created it; None if the payment has no such mark."""
    try_number: int = 1
    """The order's try that created it."""

    @property
    def charged(self) -> Decimal:
        """The amount that was charged; zero unless the payment succeeded."""
        return self.amount if self.status is PaymentStatus.SUCCEEDED else Decimal(0)

    @property
    def kept(self) -> Decimal:
        """The amount that was charged and not refunded."""
        return self.charged - self.amount_refunded

    @property
    def moved_at(self) -> datetime:
        """The time of the last change."""
        return max(
            self.created_at,
            self.charged_at or self.created_at,
            *(refund.created_at for refund in self.refunds),
        )


@dataclass(frozen=True, slots=True)
class GatewayTotals:
    """The totals of the gateway's own ledger: the reference that our tables are checked against."""

    charged: Decimal
    refunded: Decimal


class NewPayment(TypedDict):
    """A payment to be registered."""

    order_id: str
    amount: Decimal
    currency: str
    method: str
    card_last4: str | None
    token: str | None
    try_number: NotRequired[int]
    """The order's try, which the gateway keeps with the payment. Without it: 1."""


class PaymentGateway(Protocol):
    """The gateway as the shop uses it: creates and finds this installation's payments only
    (`shop.payments.ownership`).

    Every method raises only `PaymentDeclined`, `PaymentGatewayTimeout` or `PaymentGatewayError`
    (`shop.payments.errors`); `create` also `PaymentRefused`, before anything is sent, and `confirm` also
    `PaymentNeedsCustomer`."""

    async def create(self, *, key: str, **new: Unpack[NewPayment]) -> Payment:
        """Registers a payment; nothing is charged. `key` is the idempotency key."""
        ...

    async def confirm(self, payment_id: str, *, key: str) -> Payment:
        """Charges the payment. Returns it unchanged if it has already succeeded. Raises `PaymentDeclined` if
        the bank declines it, or if it is already cancelled or declined."""
        ...

    async def get(self, payment_id: str) -> Payment:
        """Returns the payment's current state. Its `order_id` is empty if it is not this installation's."""
        ...

    async def find(self, order_id: str) -> list[Payment]:
        """Returns every payment that this installation ever created for the order, oldest first."""
        ...

    def pages(self, since: datetime) -> AsyncIterator[list[Payment]]:
        """Yields pages of the payments that were created, charged or refunded since then, with all their
        refunds; also of those that name no order, as a shop's own checkout makes them. Payments that are
        created while the pages are read may be missing."""
        ...

    async def cancel(self, payment_id: str, *, key: str) -> Payment:
        """Cancels the payment, so that it can never be charged. Returns its state: if it has succeeded
        meanwhile, it stays succeeded, and the caller has to refund it."""
        ...

    async def refund(self, payment_id: str, *, amount: Decimal, currency: str, key: str) -> Refund:
        """Refunds `amount`. Raises `PaymentGatewayError(retryable=False)`
        if the gateway refuses permanently."""
        ...

    async def aclose(self) -> None: ...


class GatewayClient(PaymentGateway, Protocol):
    """Client of one gateway: sees the payments of all users of the account."""

    async def create(
        self, *, key: str, installation: str | None = None, **new: Unpack[NewPayment]
    ) -> Payment:
        """Like `PaymentGateway.create`, and marks the payment with the installation id."""
        ...

    async def find(self, order_id: str, *, installation: str | None = None) -> list[Payment]:
        """Returns every payment of the order with this installation id (None: without any), oldest first."""
        ...

    async def get(self, payment_id: str) -> Payment:
        """Returns the payment's current state, whoever created it."""
        ...


@runtime_checkable
class AsksCustomers(Protocol):
    """A client of a gateway whose payments may wait for the customer (3-D Secure)."""

    async def client_secret(self, payment_id: str) -> str | None:
        """Returns what the gateway's script on the shop's page needs to show the bank's question; None if the
        payment does not wait for its customer. Raises what a `PaymentGateway` raises."""
        ...
