"""A gateway whose answers are wrong, each in one field: what it kept,
and what was shipped, says whether it was believed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import product
from typing import Any

import pytest

from flows.process_pending_orders import process_pending_orders
from shop.orders import intake, report
from shop.orders.outcomes import Outcome
from shop.payments.gateway import Payment, PaymentStatus, Refund
from shop.payments.gateways import use
from shop.payments.sandbox.behaviour import Behaviour
from shop.payments.sandbox.ledger import Ledger
from tests.integration.world import World, an_order
from tests.sandbox_in_process import InProcessGateway

PRICE = Decimal("29.99")
UNITS = 2999
LONG_AGO = datetime(2001, 2, 3, tzinfo=UTC)
PAYMENTS: dict[str, list[Any]] = {
    "id": ["pay_made_up_1"],
    "order_id": ["another-shops", ""],
    "status": [PaymentStatus.CREATED, PaymentStatus.DECLINED, PaymentStatus.CANCELLED],
    "amount": [Decimal("0.01"), Decimal(0), Decimal("100000.00")],
    "currency": ["EUR"],
    "amount_refunded": [Decimal("29.98"), Decimal("100000.00")],
    "fee": [Decimal("1000.00")],
    "method": ["bitcoin"],
    "transaction_id": [None, "ch_made_up"],
    "charged_at": [None, LONG_AGO],
    "installation": [None, "0123456789abcdef"],
}
"""What each field of a payment may say instead."""
REFUNDS: dict[str, list[Any]] = {
    "id": ["ref_made_up"],
    "payment_id": ["pay_made_up_1"],
    "amount": [Decimal("0.01"), Decimal("100000.00")],
    "currency": ["EUR"],
}


@dataclass(frozen=True)
class Lie:
    """`move`'s answers say `value` in `field`: each of them, or the first one only."""

    move: str
    field: str
    value: Any
    once: bool

    def __str__(self) -> str:
        return f"{self.move}.{self.field}={self.value}{' once' if self.once else ''}"


LIES = [
    *(
        Lie(move, field, value, once)
        for move, once in product(["create", "confirm", "get", "find", "cancel"], [True, False])
        for field, values in PAYMENTS.items()
        for value in values
    ),
    *(
        Lie("refund", field, value, once)
        for once in [True, False]
        for field, values in REFUNDS.items()
        for value in values
    ),
]


class LyingGateway:
    """A gateway that works, and whose answers lie as each order has it."""

    def __init__(self, ledger: Ledger, lies: dict[str, Lie]) -> None:
        self._ledger, self._real, self._lies, self._falsified = (
            ledger,
            InProcessGateway(ledger),
            lies,
            set[str](),
        )

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)

        async def called(*args: Any, **kwargs: Any) -> Any:
            answer = await real(*args, **kwargs)
            if answer is None:
                return None
            if isinstance(answer, list):
                return [self._twisted(name, each) for each in answer]
            return self._twisted(name, answer)

        return called

    def _twisted(self, move: str, answer: Payment | Refund) -> Any:
        payment_id = answer.payment_id if isinstance(answer, Refund) else answer.id
        order_id = self._ledger.get(payment_id).order_id
        lie = self._lies.get(order_id)
        if lie is None or lie.move != move or (lie.once and order_id in self._falsified):
            return answer
        self._falsified.add(order_id)
        return replace(answer, **{lie.field: lie.value})


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger(None, Behaviour())
    yield made
    made.close()


@pytest.mark.parametrize(
    "kind",
    [
        "good",
        "unshippable",
        pytest.param("declined", marks=pytest.mark.slow),
        pytest.param("first answer lost", marks=pytest.mark.slow),
    ],
)
async def test_no_lie_ships_without_a_charge_or_moves_more_than_the_charge(
    saga: World, ledger: Ledger, unique: str, kind: str
) -> None:
    """An order that cannot be clear comes to a person. `first answer lost`: so that it is looked up."""
    saga.receive("PROD-002", 10000)
    card = {"declined": "0000", "first answer lost": "0341"}.get(kind, "1234")
    orders = {
        f"{unique}-{number}": an_order(
            f"{unique}-{number}",
            product="PROD-002",
            price=str(PRICE),
            card=card,
            country="AQ" if kind == "unshippable" else "US",
        )
        for number in range(len(LIES))
    }
    lies = dict(zip(orders, LIES, strict=True))
    use(LyingGateway(ledger, lies))
    intake.submit(orders.values())
    await process_pending_orders(consumer_seconds=0)
    ends = report.read(list(orders))
    wrong = [
        f"{lies[order_id]}: {why}"
        for order_id in orders
        for why in judge(saga, ledger, order_id, ends[order_id])
    ]
    assert not wrong, "\n".join(wrong)


def judge(saga: World, ledger: Ledger, order_id: str, end: Any) -> Iterator[str]:
    """What is wrong with the order, by the ledger and the parcels."""
    payments = ledger.find(order_id)
    charges = [payment for payment in payments if payment.status is PaymentStatus.SUCCEEDED]
    kept = sum(payment.amount - payment.refunded for payment in charges)
    shipped = saga.shipments(order_id)
    if len(charges) > 1:
        yield f"charged {len(charges)} times"
    if shipped and (shipped, kept) != (1, UNITS):
        yield f"{shipped} parcels for {kept}"
    if end.outcome is Outcome.COMPLETED and not shipped:
        yield "completed without a parcel"
    if end.outcome is Outcome.COMPENSATED and kept:
        yield f"{kept} kept of an order that is said to be undone"
    if end.outcome not in {Outcome.COMPLETED, Outcome.COMPENSATED, Outcome.NEEDS_ATTENTION}:
        yield f"it ended as {end.outcome}"
