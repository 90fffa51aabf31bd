"""Single faults of the sandbox gateway, over real HTTP:
what the client makes of each, and what the ledger says."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.local.programs import Sandbox
from shop.payments.errors import PaymentError, PaymentGatewayError, PaymentGatewayTimeout
from shop.payments.gateway import Payment, PaymentGateway, PaymentStatus
from shop.payments.sandbox.behaviour import Fault, FaultRule, Move
from shop.payments.sandbox.client import SandboxGateway
from shop.payments.sandbox.ledger import Ledger
from tests.conftest import HOME, own_port
from tests.waiting import until

PRICE = Decimal("10.59")
IN_EFFECT = {
    Fault.SLOW,
    Fault.ERROR_500_AFTER,
    Fault.RESET_AFTER,
    Fault.GARBAGE,
    Fault.TRUNCATED,
    Fault.MISLABELLED,
    Fault.LATE,
    Fault.PROCESSING,
}
"""With these the work is done."""
HARMLESS = {Fault.SLOW, Fault.MISLABELLED}


class Gateway:
    """A gateway with configurable behaviour."""

    def __init__(self, process: Sandbox) -> None:
        self.gateway = SandboxGateway(process.url, 3.0, 8)
        self.ledger_path, self._url = process.ledger, process.url

    async def rules(self, *rules: FaultRule) -> None:
        async with httpx.AsyncClient() as client:
            switches = {"faults": [rule.model_dump(mode="json") for rule in rules]}
            (await client.post(f"{self._url}/sandbox/behaviour", json=switches)).raise_for_status()

    def charged(self, order_id: str) -> int:
        with closing(sqlite3.connect(self.ledger_path)) as ledger:
            statement = (
                "SELECT coalesce(sum(amount), 0) FROM payments WHERE order_id = ? AND charged_at IS NOT NULL"
            )
            return int(ledger.execute(statement, (order_id,)).fetchone()[0])


@pytest.fixture(scope="module")
def process(world_dir: Path) -> Iterator[Sandbox]:
    own_port(world_dir / "faulty")
    own = Sandbox(
        home=HOME, folder=world_dir / "faulty", logs=world_dir / "faulty-logs", pids=world_dir / "faulty-run"
    )
    try:
        own.start()
        yield own
    finally:
        own.stop()


@pytest.fixture
async def faulty(process: Sandbox) -> AsyncIterator[Gateway]:
    gateway = Gateway(process)
    yield gateway
    await gateway.rules()
    await gateway.gateway.aclose()


async def new(gateway: PaymentGateway, order_id: str) -> Payment:
    return await gateway.create(
        order_id=order_id,
        amount=PRICE,
        currency="USD",
        method="card",
        card_last4="1234",
        token=None,
        key=uuid.uuid4().hex,
    )


async def in_time(faulty: Gateway, order_id: str, units: int) -> None:
    async def there() -> bool:
        await faulty.gateway.find(order_id)  # a confirmation in progress takes effect when somebody looks
        return faulty.charged(order_id) == units

    await until(there, 10, f"{units} charged for {order_id}")


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.STALE])
async def test_each_fault_on_a_confirmation(faulty: Gateway, unique: str, fault: Fault) -> None:
    """An error that may pass, with or without effect; then a second look or a second try, and one charge."""
    payment = await new(faulty.gateway, unique)
    await faulty.rules(FaultRule(fault=fault, move=Move.CONFIRM, times=1, ms=100))
    if fault in HARMLESS:
        assert (await faulty.gateway.confirm(payment.id, key=unique)).charged == PRICE
    else:
        with pytest.raises(PaymentError) as failed:
            await faulty.gateway.confirm(payment.id, key=unique)
        assert failed.value.retryable
        assert isinstance(failed.value, PaymentGatewayError | PaymentGatewayTimeout)
    if fault in IN_EFFECT:
        await in_time(faulty, unique, 1059)
    else:
        assert faulty.charged(unique) == 0
    assert (await faulty.gateway.confirm(payment.id, key=unique)).charged == PRICE, "the fault was for once"
    assert faulty.charged(unique) == 1059


ASKS: dict[Move, Callable[[PaymentGateway, Payment], Awaitable[Any]]] = {
    Move.CREATE: lambda gateway, payment: new(gateway, payment.order_id),
    Move.CANCEL: lambda gateway, payment: gateway.cancel(payment.id, key=f"cancel-{payment.id}"),
    Move.REFUND: lambda gateway, payment: gateway.refund(
        payment.id, amount=PRICE, currency="USD", key=f"refund-{payment.id}"
    ),
    Move.GET: lambda gateway, payment: gateway.get(payment.id),
    Move.FIND: lambda gateway, payment: gateway.find(payment.order_id),
}


@pytest.mark.parametrize("move", ASKS)
@pytest.mark.parametrize(
    "fault",
    [
        Fault.ERROR_502,
        Fault.ERROR_429,
        Fault.RESET_BEFORE,
        Fault.RESET_AFTER,
        Fault.TRUNCATED,
        Fault.WEB_PAGE,
    ],
)
async def test_each_move_can_fail_and_be_tried_again(
    faulty: Gateway, unique: str, fault: Fault, move: Move
) -> None:
    payment = await new(faulty.gateway, unique)
    if move is Move.REFUND:
        await faulty.gateway.confirm(payment.id, key=unique)
    await faulty.rules(FaultRule(fault=fault, move=move, order_id=unique, times=2))
    for _ in range(2):
        with pytest.raises(PaymentGatewayError) as failed:
            await ASKS[move](faulty.gateway, payment)
        assert failed.value.retryable
    await ASKS[move](faulty.gateway, payment)


async def test_a_fault_affects_only_its_order(faulty: Gateway, unique: str) -> None:
    mine, other = await new(faulty.gateway, unique), await new(faulty.gateway, f"{unique}-other")
    await faulty.rules(FaultRule(fault=Fault.ERROR_500, move=Move.CONFIRM, order_id=unique))
    assert (await faulty.gateway.confirm(other.id, key=other.id)).charged == PRICE
    assert (await faulty.gateway.get(mine.id)).status is PaymentStatus.CREATED
    for _ in range(3):
        with pytest.raises(PaymentGatewayError):
            await faulty.gateway.confirm(mine.id, key=mine.id)
    await faulty.rules()
    assert (await faulty.gateway.confirm(mine.id, key=mine.id)).charged == PRICE


async def test_while_a_confirmation_is_in_progress_nothing_else_can_be_done(
    faulty: Gateway, unique: str
) -> None:
    """A duplicate is refused, and so is a cancellation; the success shows up late."""
    payment = await new(faulty.gateway, unique)
    await faulty.rules(FaultRule(fault=Fault.PROCESSING, move=Move.CONFIRM, times=1, ms=5000))
    with pytest.raises(PaymentGatewayError, match="neither a charge nor a refusal"):
        await faulty.gateway.confirm(payment.id, key=unique)
    assert (await faulty.gateway.get(payment.id)).status is PaymentStatus.CREATED, (
        "it looks as if nothing had happened"
    )
    asks: list[Awaitable[Payment]] = [
        faulty.gateway.confirm(payment.id, key=unique),
        faulty.gateway.confirm(payment.id, key=f"{unique}-again"),
        faulty.gateway.cancel(payment.id, key=f"cancel-{unique}"),
    ]
    for ask in asks:
        with pytest.raises(PaymentGatewayError) as refused:
            await ask
        assert (refused.value.error_code, refused.value.retryable) == ("request_in_progress", True)
    assert faulty.charged(unique) == 0
    await in_time(faulty, unique, 1059)
    assert (await faulty.gateway.cancel(payment.id, key=f"cancel-{unique}")).charged == PRICE, (
        "too late to cancel"
    )


async def test_a_late_charge_finds_a_payment_that_was_cancelled_meanwhile(
    faulty: Gateway, unique: str
) -> None:
    payment = await new(faulty.gateway, unique)
    await faulty.rules(FaultRule(fault=Fault.LATE, move=Move.CONFIRM, times=1, ms=2000))
    with pytest.raises(PaymentGatewayTimeout):
        await faulty.gateway.confirm(payment.id, key=unique)
    assert (await faulty.gateway.cancel(payment.id, key=f"cancel-{unique}")).status is PaymentStatus.CANCELLED

    async def refused() -> bool:
        with closing(sqlite3.connect(faulty.ledger_path)) as ledger:
            return (
                ledger.execute("SELECT refusal FROM answers WHERE key = ?", (unique,)).fetchone() is not None
            )

    await until(refused, 10, "the late confirmation to be looked at")
    assert faulty.charged(unique) == 0
    assert (await faulty.gateway.get(payment.id)).status is PaymentStatus.CANCELLED


async def test_what_is_found_may_be_stale(faulty: Gateway, unique: str) -> None:
    payment = await new(faulty.gateway, unique)
    await faulty.rules(FaultRule(fault=Fault.STALE, move=Move.FIND, times=1))
    assert await faulty.gateway.find(unique) == []
    assert await faulty.gateway.find(unique) == [payment]


async def test_a_confirmation_in_progress_survives_the_process(tmp_path: Path, unique: str) -> None:
    with closing(Ledger(tmp_path / "l")) as ledger:
        made = ledger.create(
            order_id=unique, amount=1, currency="USD", method="card", card_last4=None, token=None, key=None
        )
        assert ledger.confirm_later(made.id, 0).status is PaymentStatus.CREATED
    with closing(Ledger(tmp_path / "l")) as ledger:
        assert ledger.get(made.id).status is PaymentStatus.SUCCEEDED


async def test_faults_that_make_no_sense_are_refused(process: Sandbox) -> None:
    for wrong in (
        {"fault": "meteor"},
        {"fault": "slow", "times": 0},
        {"fault": "slow", "order": "x"},
        {"move": "create"},
    ):
        answer = httpx.post(f"{process.url}/sandbox/behaviour", json={"faults": [wrong]}, timeout=10)
        assert answer.status_code == httpx.codes.BAD_REQUEST
    assert httpx.get(f"{process.url}/sandbox/behaviour", timeout=10).json()["faults"] == []
