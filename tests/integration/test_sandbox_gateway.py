"""What a payment gateway promises, asked of the sandbox over real HTTP.

Money is read from the ledger's own tables, past all code that is tested here.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from shop.orders import names
from shop.payments.errors import PaymentDeclined, PaymentGatewayError, PaymentGatewayTimeout
from shop.payments.gateway import Payment, PaymentGateway, PaymentStatus
from shop.payments.sandbox.behaviour import Behaviour
from shop.payments.sandbox.client import SandboxGateway
from shop.payments.sandbox.ledger import Ledger
from shop.values.money import to_minor

CREATED, SUCCEEDED, DECLINED, CANCELLED = (
    PaymentStatus.CREATED,
    PaymentStatus.SUCCEEDED,
    PaymentStatus.DECLINED,
    PaymentStatus.CANCELLED,
)
HOME = Path(__file__).resolve().parents[2]
TIMEOUT = 30.0
"""Seconds for what is expected to be answered, on a machine that is busy with other things."""
SHORT_TIMEOUT = 1.0
"""Seconds for what is expected not to be."""
PRICE = Decimal("10.59")


class Process:
    """The sandbox as a process of its own."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        self.folder, self.path = folder, folder / "ledger.db"
        self._options, self._environment = options, environment
        self.start()

    def start(self, port: int = 0) -> None:
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "deployments.cli",
            "sandbox",
            "--port",
            str(port),
            "--db",
            str(self.path),
            "--port-file",
            str(port_file),
        ]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("SANDBOX_")
        } | self._environment
        with (self.folder / "out").open("w") as out, (self.folder / "err").open("w") as err:
            self._running = subprocess.Popen(
                [*command, *self._options], cwd=HOME, env=environment, stdout=out, stderr=err
            )
        deadline = time.monotonic() + 60
        while not port_file.exists():
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(
                    f"the sandbox ended with {self._running.wait(0.02)}: {(self.folder / 'err').read_text()}"
                )
            if time.monotonic() > deadline:
                self.kill()
                pytest.fail("the sandbox does not listen")
        self.port = int(port_file.read_text())
        self.url = f"http://127.0.0.1:{self.port}"

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int:
        self._running.send_signal(how)
        return self._running.wait(TIMEOUT)


class World:
    """A gateway to be tested, and what a test does behind its back."""

    def __init__(self, folder: Path) -> None:
        self.process = Process(folder)
        self.path = self.process.path
        self.gateway = SandboxGateway(self.process.url, TIMEOUT, 8)
        self.impatient = SandboxGateway(self.process.url, SHORT_TIMEOUT, 8)

    async def behave(self, behaviour: Behaviour) -> None:
        async with httpx.AsyncClient(base_url=self.process.url, timeout=TIMEOUT, trust_env=False) as client:
            (await client.post("/sandbox/behaviour", json=behaviour.model_dump())).raise_for_status()

    async def crash(self) -> None:
        """Ends it without warning and starts it again on the same ledger."""
        self.process.kill()
        self.process.start(self.process.port)

    async def end(self) -> None:
        await self.gateway.aclose()
        await self.impatient.aclose()
        self.process.kill()

    def money(self, order_id: str) -> tuple[int, int]:
        """(charged, refunded) for the order, in smallest units."""
        with closing(sqlite3.connect(self.path)) as ledger:
            charged = (
                "SELECT coalesce(sum(amount), 0) FROM payments WHERE order_id = ? AND charged_at IS NOT NULL"
            )
            refunded = (
                "SELECT coalesce(sum(r.amount), 0) FROM refunds r JOIN payments p ON p.number = r.payment "
                "WHERE p.order_id = ?"
            )
            sums = [ledger.execute(each, (order_id,)).fetchone()[0] for each in (charged, refunded)]
            return sums[0], sums[1]

    def totals(self) -> dict[str, tuple[int, int]]:
        """(charged, refunded) by currency, according to the gateway's own answer."""
        answer = httpx.get(f"{self.process.url}/v1/totals", timeout=TIMEOUT, trust_env=False).json()
        return {each["currency"]: (each["charged"], each["refunded"]) for each in answer}


@pytest_asyncio.fixture(scope="module")
async def one_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    world = World(tmp_path_factory.mktemp("sandbox"))
    yield world
    await world.end()


@pytest_asyncio.fixture
async def world(one_world: World) -> AsyncIterator[World]:
    yield one_world
    await one_world.behave(Behaviour())


@pytest.fixture
def order_id(request: pytest.FixtureRequest) -> str:
    """The test's own order."""
    return str(request.node.name)


async def new(
    gateway: PaymentGateway, order_id: str, card: str | None = "1234", key: str = "", **other: Any
) -> Payment:
    given: dict[str, Any] = {"amount": PRICE, "currency": "USD", "method": "credit_card", "token": None}
    return await gateway.create(
        order_id=order_id, card_last4=card, key=key or names.key(order_id, "create"), **(given | other)
    )


async def charged(gateway: PaymentGateway, order_id: str, card: str | None = "1234", **other: Any) -> Payment:
    payment = await new(gateway, order_id, card, **other)
    return await gateway.confirm(payment.id, key=f"confirm-{payment.id}")


# -- the contract


async def test_creating_charges_nothing_and_confirming_charges_once(world: World, order_id: str) -> None:
    created = await new(world.gateway, order_id, token="tok_1")
    assert (created.order_id, created.status, created.amount, created.currency) == (
        order_id,
        CREATED,
        PRICE,
        "USD",
    )
    assert created.charged == created.fee == 0
    assert created.transaction_id is None
    assert created.charged_at is None
    assert world.money(order_id) == (0, 0)
    paid = await world.gateway.confirm(created.id, key="confirm-once")
    assert (paid.id, paid.status, paid.charged, paid.fee, paid.method) == (
        created.id,
        SUCCEEDED,
        PRICE,
        Decimal("0.61"),
        "credit_card",
    )
    assert paid.transaction_id
    assert paid.charged_at is not None
    assert paid.charged_at.utcoffset() is not None
    assert (
        paid == await world.gateway.confirm(created.id, key="another") == await world.gateway.get(created.id)
    )
    assert world.money(order_id) == (1059, 0)


@pytest.mark.parametrize(("card", "code"), [("0000", "card_declined"), ("0002", "insufficient_funds")])
async def test_a_declined_card_raises_and_pays_nothing(
    world: World, order_id: str, card: str, code: str
) -> None:
    payment = await new(world.gateway, order_id, card)
    for key in ("first", "first", "second"):
        with pytest.raises(PaymentDeclined) as declined:
            await world.gateway.confirm(payment.id, key=f"{key}-{payment.id}")
        assert (declined.value.error_code, declined.value.retryable) == (code, False)
    assert (await world.gateway.get(payment.id)).status is DECLINED
    assert world.money(order_id) == (0, 0)


async def test_a_flaky_card_fails_twice_and_then_pays_under_the_same_key(world: World, order_id: str) -> None:
    payment = await new(world.gateway, order_id, "0119")
    for _ in range(2):
        with pytest.raises(PaymentGatewayError) as failed:
            await world.gateway.confirm(payment.id, key=f"confirm-{payment.id}")
        assert (failed.value.error_code, failed.value.retryable) == ("processing_error", True)
    assert world.money(order_id) == (0, 0)
    assert (await world.gateway.confirm(payment.id, key=f"confirm-{payment.id}")).status is SUCCEEDED
    assert world.money(order_id) == (1059, 0)


@pytest.mark.parametrize("forget_keys", [False, True])
async def test_a_lost_answer_is_a_timeout_and_the_charge_is_found(
    world: World, order_id: str, forget_keys: bool
) -> None:
    await world.behave(Behaviour(forget_keys=forget_keys))
    payment = await new(world.gateway, order_id, "0341")
    with pytest.raises(PaymentGatewayTimeout) as lost:
        await world.impatient.confirm(payment.id, key=f"confirm-{payment.id}")
    assert lost.value.retryable
    assert [found.status for found in await world.gateway.find(order_id)] == [SUCCEEDED]
    assert (await world.gateway.confirm(payment.id, key=f"confirm-{payment.id}")).charged == PRICE
    assert world.money(order_id) == (1059, 0)


async def test_a_card_that_takes_no_refunds_refuses_for_good(world: World, order_id: str) -> None:
    payment = await charged(world.gateway, order_id, "0259")
    with pytest.raises(PaymentGatewayError) as refused:
        await world.gateway.refund(payment.id, amount=PRICE, currency="USD", key=f"refund-{payment.id}")
    assert (refused.value.error_code, refused.value.retryable) == ("refund_refused", False)
    assert world.money(order_id) == (1059, 0)


async def test_a_payment_without_a_card_pays(world: World, order_id: str) -> None:
    assert (await charged(world.gateway, order_id, None, method="paypal")).method == "paypal"
    assert world.money(order_id) == (1059, 0)


async def test_a_remembered_key_makes_one_payment_and_one_refund(world: World, order_id: str) -> None:
    first, second = await new(world.gateway, order_id), await new(world.gateway, order_id)
    assert first == second
    assert await world.gateway.find(order_id) == [first]
    await world.gateway.confirm(first.id, key=f"confirm-{first.id}")
    refunds = [
        await world.gateway.refund(first.id, amount=Decimal(6), currency="USD", key=f"refund-{first.id}")
        for _ in range(2)
    ]
    assert refunds[0] == refunds[1]
    assert world.money(order_id) == (1059, 600)


async def test_forgotten_keys_still_charge_and_refund_each_payment_once(world: World, order_id: str) -> None:
    await world.behave(Behaviour(forget_keys=True))
    first, second = await new(world.gateway, order_id), await new(world.gateway, order_id)
    assert await world.gateway.find(order_id) == [first, second]
    for _ in range(3):
        await world.gateway.confirm(first.id, key=f"confirm-{first.id}")
    assert world.money(order_id) == (1059, 0)
    await world.gateway.refund(first.id, amount=PRICE, currency="USD", key=f"refund-{first.id}")
    with pytest.raises(PaymentGatewayError) as refused:
        await world.gateway.refund(first.id, amount=PRICE, currency="USD", key=f"refund-{first.id}")
    assert (refused.value.error_code, refused.value.retryable) == ("charge_already_refunded", False)
    assert world.money(order_id) == (1059, 1059)


async def test_a_key_used_for_something_else_is_a_conflict(world: World, order_id: str) -> None:
    payment = await new(world.gateway, order_id)
    with pytest.raises(PaymentGatewayError) as conflict:
        await new(world.gateway, order_id, amount=Decimal(1))
    assert (conflict.value.error_code, conflict.value.retryable) == ("idempotency_conflict", False)
    assert await world.gateway.find(order_id) == [payment]


async def test_cancelled_is_never_charged(world: World, order_id: str) -> None:
    payment = await new(world.gateway, order_id)
    for _ in range(2):
        assert (await world.gateway.cancel(payment.id, key=f"cancel-{payment.id}")).status is CANCELLED
    with pytest.raises(PaymentDeclined) as declined:
        await world.gateway.confirm(payment.id, key=f"confirm-{payment.id}")
    assert declined.value.error_code == "payment_cancelled"
    assert world.money(order_id) == (0, 0)


async def test_charged_is_never_cancelled(world: World, order_id: str) -> None:
    payment = await charged(world.gateway, order_id)
    assert (await world.gateway.cancel(payment.id, key=f"cancel-{payment.id}")).charged == PRICE
    assert world.money(order_id) == (1059, 0)


async def test_cancel_against_confirm_has_one_winner_and_both_know_it(world: World, order_id: str) -> None:
    async def race(number: int) -> None:
        mine = f"{order_id}-{number}"
        payment = await new(world.gateway, mine)
        confirm, cancel = (
            world.gateway.confirm(payment.id, key=f"a-{payment.id}"),
            world.gateway.cancel(payment.id, key=f"b-{payment.id}"),
        )
        first, second = (confirm, cancel) if number % 2 else (cancel, confirm)
        answers = await asyncio.gather(first, second, return_exceptions=True)
        confirmed, cancelled = answers if number % 2 else answers[::-1]
        assert isinstance(cancelled, Payment)
        if isinstance(confirmed, Payment):
            assert (confirmed.status, cancelled.status, world.money(mine)) == (
                SUCCEEDED,
                SUCCEEDED,
                (1059, 0),
            )
        else:
            assert isinstance(confirmed, PaymentDeclined)
            assert (cancelled.status, world.money(mine)) == (CANCELLED, (0, 0))

    await asyncio.gather(*(race(number) for number in range(12)))


@pytest.mark.parametrize("forget_keys", [False, True])
async def test_confirmed_by_many_at_once_it_is_charged_once(
    world: World, order_id: str, forget_keys: bool
) -> None:
    await world.behave(Behaviour(forget_keys=forget_keys))
    payment = await new(world.gateway, order_id)
    answers = await asyncio.gather(
        *(world.gateway.confirm(payment.id, key=f"{n % 5}-{payment.id}") for n in range(40))
    )
    assert {(answer.id, answer.transaction_id) for answer in answers} == {
        (payment.id, answers[0].transaction_id)
    }
    assert world.money(order_id) == (1059, 0)


async def test_refunds_in_parts_up_to_the_whole(world: World, order_id: str) -> None:
    payment = await charged(world.gateway, order_id)

    async def refund(amount: str) -> None:
        made = await world.gateway.refund(
            payment.id, amount=Decimal(amount), currency="USD", key=f"{amount}-{payment.id}"
        )
        assert (made.payment_id, made.amount, made.currency) == (payment.id, Decimal(amount), "USD")

    async def refused(amount: str, currency: str = "USD") -> str:
        with pytest.raises(PaymentGatewayError) as error:
            await world.gateway.refund(
                payment.id, amount=Decimal(amount), currency=currency, key=f"{amount}-{currency}-{payment.id}"
            )
        assert not error.value.retryable
        return error.value.error_code

    assert await refused("10.60") == "amount_too_large"
    await refund("0.59")
    assert await refused("10.01") == "charge_already_refunded"
    assert await refused("1", "EUR") == "currency_mismatch"
    assert world.money(order_id) == (1059, 59)
    await refund("10.00")
    assert await refused("0.01") == "charge_already_refunded"
    assert world.money(order_id) == (1059, 1059)
    now = await world.gateway.get(payment.id)
    assert (now.status, now.amount_refunded, [each.amount for each in now.refunds]) == (
        SUCCEEDED,
        PRICE,
        [Decimal("0.59"), Decimal(10)],
    )


async def test_what_was_not_charged_is_not_refunded(world: World, order_id: str) -> None:
    payment = await new(world.gateway, order_id)
    with pytest.raises(PaymentGatewayError) as refused:
        await world.gateway.refund(payment.id, amount=PRICE, currency="USD", key=f"refund-{payment.id}")
    assert (refused.value.error_code, refused.value.retryable) == ("payment_not_charged", False)
    assert world.money(order_id) == (0, 0)


@pytest.mark.parametrize(
    ("currency", "amount", "units"), [("JPY", "500", 500), ("KWD", "1.234", 1234), ("USD", "1059.97", 105997)]
)
async def test_every_currency_has_its_own_smallest_unit(
    world: World, order_id: str, currency: str, amount: str, units: int
) -> None:
    paid = await charged(world.gateway, order_id, amount=Decimal(amount), currency=currency)
    assert (paid.amount, paid.currency) == (Decimal(amount), currency)
    assert world.money(order_id) == (units, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        *(
            {"amount": Decimal(amount)}
            for amount in ("0", "-1", "0.001", "1e30", "1e15", "NaN", "sNaN", "Infinity")
        ),
        {"currency": "usd"},
        {"currency": "\ud800"},
        {"currency": ""},
        {"card": "4242424242424242"},
        {"card": "12a4"},
        {"card": "\ud8001234"},
        {"token": "4242 4242 4242 4242"},
        {"method": ""},
        {"key": "two words"},
        {"key": "line\r\nbreak"},
        {"key": "é"},
        {"key": "k" * 256},
    ],
    ids=ascii,
)
async def test_nonsense_is_refused_for_good(world: World, order_id: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(PaymentGatewayError) as refused:
        await new(world.gateway, order_id, **wrong)
    assert not refused.value.retryable
    assert "4242" not in json.dumps(refused.value.details())
    assert await world.gateway.find(order_id) == []


HOSTILE = [
    "../../x",
    "a/b?c=d&e#f%00",
    "🛒" * 75,
    "x" * 300,
    "a\x00b",
    "line\r\nHost: evil",
    "'; DROP TABLE payments; --",
    "+ +",
    " ",
    "%2e%2e",
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
async def test_a_hostile_order_id_is_just_text(world: World, hostile: str) -> None:
    assert await world.gateway.find(hostile) == []
    paid = await charged(world.gateway, hostile)
    assert paid.order_id == hostile
    assert await world.gateway.find(hostile) == [paid]
    assert await world.gateway.find(hostile + "x") == []
    assert world.money(hostile) == (1059, 0)


@pytest.mark.parametrize("unusable", ["", "x" * 501, "\ud800"], ids=["empty", "too long", "no text"])
async def test_an_unusable_order_id_is_refused(world: World, unusable: str) -> None:
    with pytest.raises(PaymentGatewayError) as refused:
        await new(world.gateway, unusable, key="unusable")
    assert not refused.value.retryable


async def test_an_order_id_that_is_no_text_is_not_looked_up(world: World) -> None:
    with pytest.raises(PaymentGatewayError) as refused:
        await world.gateway.find("\ud800")
    assert not refused.value.retryable


@pytest.mark.parametrize(
    "id_",
    ["", "..", "../../sandbox/behaviour", "pay_1", "pay_1?x", "🛒", "\ud800", "x" * 10_000],
    ids=lambda id_: ascii(id_)[:30],
)
async def test_an_unknown_payment_is_an_error_for_good(world: World, id_: str) -> None:
    gateway = world.gateway
    asks: list[Callable[[], Awaitable[object]]] = [
        lambda: gateway.get(id_),
        lambda: gateway.confirm(id_, key="k-1"),
        lambda: gateway.cancel(id_, key="k-2"),
        lambda: gateway.refund(id_, amount=PRICE, currency="USD", key="k-3"),
    ]
    for ask in asks:
        with pytest.raises(PaymentGatewayError) as refused:
            await ask()
        assert (refused.value.error_code, refused.value.retryable) == ("no_such_payment", False)


async def every_payment(gateway: SandboxGateway) -> list[Payment]:
    return [payment async for page in gateway.pages(datetime(1970, 1, 1, tzinfo=UTC)) for payment in page]


async def test_totals_and_listing_agree_with_the_tables(world: World, order_id: str) -> None:
    gateway = world.gateway
    made = [
        await charged(gateway, f"{order_id}-{n}", amount=Decimal(n + 1), currency="CHF") for n in range(3)
    ]
    await gateway.refund(made[2].id, amount=Decimal("2.50"), currency="CHF", key=f"refund-{made[2].id}")
    every = await every_payment(gateway)
    assert [payment.id for payment in every[:3]] == [payment.id for payment in made[::-1]]
    totals = world.totals()
    assert totals["CHF"] == (600, 250)
    assert totals.keys() == {payment.currency for payment in every if payment.charged}
    for currency, sums in totals.items():
        mine = [payment for payment in every if payment.currency == currency]
        assert sums == tuple(
            to_minor(sum(amounts, Decimal(0)), currency)
            for amounts in ([p.charged for p in mine], [p.amount_refunded for p in mine])
        )


async def test_listing_goes_through_all_pages(tmp_path: Path) -> None:
    process = Process(tmp_path)
    try:
        with closing(Ledger(process.path)) as ledger:
            for number in range(1203):
                ledger.create(
                    order_id=f"O-{number}",
                    amount=1,
                    currency="USD",
                    method="card",
                    card_last4=None,
                    token=None,
                    key=None,
                )
        gateway = SandboxGateway(process.url, TIMEOUT, 2)
        listed = [payment.order_id for payment in await every_payment(gateway)]
        await gateway.aclose()
    finally:
        process.kill()
    assert listed == [f"O-{number}" for number in reversed(range(1203))]


# -- misbehaviour


async def test_errors_come_before_and_after_the_work(world: World, order_id: str) -> None:
    await world.behave(Behaviour(error_rate=1, seed=3))
    for number in range(12):
        with pytest.raises(PaymentGatewayError) as failed:
            await new(world.gateway, f"{order_id}-{number}")
        assert (failed.value.error_code, failed.value.retryable) == ("internal_error", True)
    await world.behave(Behaviour())
    there = [bool(await world.gateway.find(f"{order_id}-{number}")) for number in range(12)]
    draws = random.Random(3)
    assert there == [draws.random() >= 0.5 for _ in range(12)]


async def test_work_is_done_although_the_answer_is_lost(world: World, order_id: str) -> None:
    await world.behave(Behaviour(hang_rate=1))
    with pytest.raises(PaymentGatewayTimeout):
        await new(world.impatient, order_id)
    await world.behave(Behaviour())
    (found,) = await world.gateway.find(order_id)
    assert await new(world.gateway, order_id) == found


async def test_with_seeded_faults_everywhere_retries_charge_and_refund_once(
    world: World, order_id: str
) -> None:
    """Repeated requests with one key and one payment lead to one charge and one refund."""
    await world.behave(Behaviour(error_rate=0.5, seed=11))

    async def persist(ask: Callable[[], Awaitable[Any]]) -> Any:
        for _ in range(60):
            with suppress(PaymentGatewayError):
                return await ask()
        pytest.fail("60 errors in a row")

    payment = await persist(lambda: new(world.gateway, order_id))
    await persist(lambda: world.gateway.confirm(payment.id, key=f"confirm-{payment.id}"))
    await persist(
        lambda: world.gateway.refund(
            payment.id, amount=Decimal(1), currency="USD", key=f"refund-{payment.id}"
        )
    )
    assert world.money(order_id) == (1059, 100)


async def test_latency_is_waited_for(world: World, order_id: str) -> None:
    await world.behave(Behaviour(latency_ms=60))
    began = time.monotonic()
    await new(world.gateway, order_id)
    assert time.monotonic() - began >= 0.06


# -- death


async def test_killed_and_started_again_it_knows_everything(world: World, order_id: str) -> None:
    created = await new(world.gateway, f"{order_id}-open")
    paid = await charged(world.gateway, order_id)
    refund = await world.gateway.refund(paid.id, amount=Decimal(1), currency="USD", key=f"refund-{paid.id}")
    flaky = await new(world.gateway, f"{order_id}-flaky", "0119")
    with pytest.raises(PaymentGatewayError):
        await world.gateway.confirm(flaky.id, key=f"confirm-{flaky.id}")

    await world.crash()

    assert await world.gateway.get(created.id) == created
    assert (await world.gateway.get(paid.id)).refunds == (refund,)
    assert await world.gateway.confirm(paid.id, key=f"confirm-{paid.id}") == paid
    assert (
        await world.gateway.refund(paid.id, amount=Decimal(1), currency="USD", key=f"refund-{paid.id}")
        == refund
    )
    with pytest.raises(PaymentGatewayError, match="processing_error"):
        await world.gateway.confirm(flaky.id, key=f"confirm-{flaky.id}")
    assert (await world.gateway.confirm(flaky.id, key=f"confirm-{flaky.id}")).status is SUCCEEDED
    assert (world.money(order_id), world.money(f"{order_id}-open"), world.money(f"{order_id}-flaky")) == (
        (1059, 100),
        (0, 0),
        (1059, 0),
    )


async def test_what_was_answered_before_the_kill_is_true_after_it(tmp_path: Path) -> None:
    process = Process(tmp_path)
    gateway = SandboxGateway(process.url, TIMEOUT, 8)
    answered: list[Payment] = []

    async def buy(number: int) -> None:
        with suppress(PaymentGatewayError):  # those that the kill cuts off
            answered.append(await charged(gateway, f"O-{number}"))
            if len(answered) == 20:
                process.kill()

    try:
        await asyncio.gather(*(buy(number) for number in range(60)))
        assert 20 <= len(answered) < 60
        process.start(process.port)
        assert [await gateway.get(payment.id) for payment in answered] == answered
        listed = {payment.id for payment in await every_payment(gateway)}
        assert listed >= {payment.id for payment in answered}
    finally:
        await gateway.aclose()
        process.kill()


# -- the process


async def test_the_process_prints_one_line_takes_its_switches_and_stops_on_request(tmp_path: Path) -> None:
    process = Process(tmp_path, "--forget-keys", SANDBOX_LATENCY_MS="1.5")
    try:
        async with httpx.AsyncClient(base_url=process.url, timeout=TIMEOUT, trust_env=False) as client:
            assert (await client.get("/health")).json() == {"status": "ok"}
            switches = (await client.get("/sandbox/behaviour")).json()
            assert switches == Behaviour(forget_keys=True, latency_ms=1.5).model_dump(mode="json")
            changed = (await client.post("/sandbox/behaviour", json={"latency_ms": 0})).json()
            assert changed == Behaviour(forget_keys=True).model_dump(mode="json")
            wrong = await client.post("/sandbox/behaviour", json={"error_rate": 2, "what": 1})
            assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "invalid_request")
            held = await charged(SandboxGateway(process.url, SHORT_TIMEOUT, 1), "O-1", "0341")
            pytest.fail(f"{held} was answered")
    except PaymentGatewayTimeout:
        pass
    finally:
        process.kill(signal.SIGTERM)
    assert (tmp_path / "out").read_text() == f"{process.url}\n"
    assert (tmp_path / "err").read_text() == ""


def test_the_process_prints_in_a_line_why_it_cannot_start(tmp_path: Path) -> None:
    def start(*options: str, **environment: str) -> str:
        command = [sys.executable, "-m", "deployments.cli", "sandbox", *options]
        ended = subprocess.run(
            command,
            cwd=HOME,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert (ended.returncode, ended.stdout) == (1, "")
        return ended.stderr

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "Address already in use" in start("--port", str(taken.getsockname()[1]))
    assert "error_rate" in start("--port", "0", SANDBOX_ERROR_RATE="7")
    (tmp_path / "ledger.db").write_text("no database " * 1000)
    assert "not a database" in start("--port", "0", "--db", str(tmp_path / "ledger.db"))


async def test_a_card_number_is_neither_taken_nor_repeated_nor_kept(tmp_path: Path) -> None:
    number = "4242424242424242"
    payment = {"order_id": "O-1", "amount": 1, "currency": "USD", "method": "credit_card"}
    process = Process(tmp_path)
    try:
        async with httpx.AsyncClient(base_url=process.url, timeout=TIMEOUT, trust_env=False) as client:
            for extra in (
                {"card_number": number},
                {"card_last4": number},
                {"card_last4": int(number)},
                {"token": number},
                {"method": number},
            ):
                answer = await client.post("/v1/payments", json={**payment, **extra})
                assert answer.status_code == 400
                assert answer.json()["error"]["retryable"] is False
                assert number not in answer.text
            for path, status in (("/v1/payments?limit=0", 400), ("/nowhere", 404), ("/v1/payments/x", 404)):
                answer = await client.get(path)
                assert (answer.status_code, set(answer.json()["error"])) == (
                    status,
                    {"code", "message", "retryable"},
                )
    finally:
        process.kill()
    assert not any(number.encode() in file.read_bytes() for file in tmp_path.iterdir())


async def test_after_it_was_closed_it_opens_new_connections(tmp_path: Path) -> None:
    process = Process(tmp_path)
    gateway = SandboxGateway(process.url, TIMEOUT, 2)
    try:
        paid = await charged(gateway, "O-1")
        await gateway.aclose()
        assert await gateway.find("O-1") == [paid]
        await gateway.aclose()
    finally:
        process.kill()
