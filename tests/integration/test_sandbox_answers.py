"""The sandbox's client trusts nothing: rubbish, contradictions, half answers, silence."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from shop.payments.errors import PaymentDeclined, PaymentError, PaymentGatewayError, PaymentGatewayTimeout
from shop.payments.gateway import Payment
from shop.payments.sandbox.client import SandboxGateway
from tests.integration.scripted_server import answering_server, http, rubbish

TIMEOUT = 30.0
"""Seconds for what is expected to be answered, on a machine that is busy with other things."""
SHORT_TIMEOUT = 1.0
"""Seconds for what is expected not to be."""
PRICE = Decimal("10.59")
SINCE = datetime(1970, 1, 1, tzinfo=UTC)
GOOD: dict[str, Any] = {
    "id": "pay_1",
    "order_id": "O-1",
    "status": "succeeded",
    "amount": 1059,
    "currency": "USD",
    "refunded": 59,
    "fee": 61,
    "method": "credit_card",
    "card_last4": "1234",
    "charge_id": "ch_1",
    "created_at": "2026-01-02T03:04:05Z",
    "charged_at": "2026-01-02T03:04:06.5+00:00",
    "refunds": [
        {
            "id": "ref_1",
            "payment_id": "pay_1",
            "amount": 59,
            "currency": "USD",
            "created_at": "2026-01-02T03:04:07Z",
        }
    ],
}
LOST: Any = object()


def good(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (GOOD | changes).items() if value is not LOST}


@asynccontextmanager
async def answering_gateway(
    answer: bytes | None, *, limit: float = TIMEOUT, pause: float = 0, drip: int = 0
) -> AsyncIterator[SandboxGateway]:
    """A gateway whose other side says just this to everything; see `answering_server`."""
    async with answering_server(answer, pause=pause, drip=drip) as scripted:
        gateway = SandboxGateway(scripted.url, limit, 2)
        yield gateway
        await gateway.aclose()


async def new(gateway: SandboxGateway) -> Payment:
    return await gateway.create(
        order_id="O-1",
        amount=PRICE,
        currency="USD",
        method="credit_card",
        card_last4="1234",
        token=None,
        key="create",
    )


async def asked_in_every_way(gateway: SandboxGateway) -> AsyncIterator[PaymentError]:
    """The error that each method ends in."""

    async def listed() -> None:
        async for _ in gateway.pages(SINCE):
            pass

    asks: list[Callable[[], Awaitable[object]]] = [
        lambda: new(gateway),
        lambda: gateway.confirm("pay_1", key="k"),
        lambda: gateway.get("pay_1"),
        lambda: gateway.find("O-1"),
        lambda: gateway.cancel("pay_1", key="k"),
        lambda: gateway.refund("pay_1", amount=PRICE, currency="USD", key="k"),
        listed,
    ]
    for ask in asks:
        with pytest.raises(PaymentError) as error:
            await ask()
        yield error.value


RUBBISH = rubbish(good()) | {
    "overloaded": http({"error": {"code": "overloaded", "message": "later"}}, "503 Service Unavailable"),
    "too many": http(
        {"error": {"code": "rate_limit", "message": "later", "retryable": False}}, "429 Too Many Requests"
    ),
    "an unclear no": http(b"<html>", "402 Payment Required"),
    "a no with a wrong type": http({"error": {"code": 7, "message": None}}, "402 Payment Required"),
    "a no that is a list": http([[]], "402 Payment Required"),
}


@pytest.mark.parametrize("bad", RUBBISH.values(), ids=RUBBISH.keys())
async def test_rubbish_is_a_retryable_gateway_error(bad: bytes) -> None:
    async with answering_gateway(bad) as gateway:
        async for error in asked_in_every_way(gateway):
            assert type(error) is PaymentGatewayError
            assert error.retryable
            json.dumps(error.details()).encode()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (http(b"<html>", "404 Not Found"), "http_404"),
        (http({"error": {"code": "forbidden", "message": "no"}}, "403 Forbidden"), "forbidden"),
        (http({"error": {"code": "EVIL <b>", "message": "no"}}, "400 Bad Request"), "http_400"),
    ],
)
async def test_other_refusals_are_for_good(answer: bytes, code: str) -> None:
    async with answering_gateway(answer) as gateway:
        async for error in asked_in_every_way(gateway):
            assert (type(error), error.error_code, error.retryable) == (PaymentGatewayError, code, False)


async def test_a_refusal_s_text_is_tamed() -> None:
    text = "no\x00\x1b[31m\n" + "x" * 10_000
    async with answering_gateway(
        http({"error": {"code": "card_declined", "message": text}}, "402 Payment Required")
    ) as gateway:
        async for error in asked_in_every_way(gateway):
            assert type(error) is PaymentDeclined
            assert error.error_message.startswith("no??[31m?xxx")
            assert len(error.error_message) <= 300


CONTRADICTIONS: list[dict[str, Any]] = [
    {"id": LOST},
    {"id": "pay_2"},
    {"id": "pay_2", "refunded": 0, "refunds": []},
    {"id": 1},
    {"id": "../x"},
    {"id": "pay_1\n"},
    {"order_id": LOST},
    {"order_id": None},
    {"status": "paid"},
    {"status": None},
    {"status": "created"},
    {"status": "declined"},
    {"amount": "1059"},
    {"amount": 1059.0},
    {"amount": True},
    {"amount": -1059},
    {"amount": 10**30},
    {"currency": "usd"},
    {"currency": LOST},
    {"refunded": 60},
    {"refunded": 0},
    {"refunded": 1060, "refunds": []},
    {"fee": -1},
    {"fee": None},
    {"method": 1},
    {"charge_id": None},
    {"charged_at": None},
    {"charged_at": "yesterday"},
    {"charged_at": "2026-01-02T03:04:06"},
    {"charged_at": 1},
    {"created_at": LOST},
    {"refunds": {}},
    {"refunds": [GOOD["refunds"][0] | {"payment_id": "pay_2"}]},
    {"refunds": [GOOD["refunds"][0] | {"currency": "EUR"}]},
    {"refunds": [GOOD["refunds"][0] | {"amount": 58}]},
]


@pytest.mark.parametrize(
    "changes", CONTRADICTIONS, ids=lambda changes: ascii(changes).replace(repr(LOST), "lost")[:60]
)
async def test_a_payment_that_cannot_be_true_is_not_believed(changes: dict[str, Any]) -> None:
    async with answering_gateway(http(good(**changes))) as gateway:
        asks = [gateway.confirm("pay_1", key="k"), gateway.cancel("pay_1", key="k"), gateway.get("pay_1")]
        if changes in ({"status": "paid"}, {"order_id": LOST}):
            asks.append(new(gateway))
        for ask in asks:
            with pytest.raises(PaymentGatewayError) as error:
                await ask
            assert (error.value.error_code, error.value.retryable) == ("bad_answer", True)


@pytest.mark.parametrize(
    "changes",
    [{"order_id": "O-2"}, {"amount": 1060}, {"currency": "CAD", "refunded": 0, "refunds": []}],
    ids=str,
)
async def test_another_payment_than_was_created_is_not_believed(changes: dict[str, Any]) -> None:
    async with answering_gateway(http(good(**changes))) as gateway:
        with pytest.raises(PaymentGatewayError, match="bad_answer"):
            await new(gateway)


@pytest.mark.parametrize(
    "changes",
    [{"payment_id": "pay_2"}, {"amount": 60}, {"currency": "EUR"}, {"id": LOST}],
    ids=lambda changes: ascii(changes).replace(repr(LOST), "lost"),
)
async def test_another_refund_than_was_asked_for_is_not_believed(changes: dict[str, Any]) -> None:
    refund = {name: value for name, value in (GOOD["refunds"][0] | changes).items() if value is not LOST}
    async with answering_gateway(http(refund)) as gateway:
        with pytest.raises(PaymentGatewayError, match="bad_answer"):
            await gateway.refund("pay_1", amount=Decimal("0.59"), currency="USD", key="k")


@pytest.mark.parametrize(
    "page",
    [
        {"data": [good(order_id="O-2")], "has_more": False},
        {"data": [good(), good(order_id="O-2", id="pay_2", refunded=0, refunds=[])], "has_more": False},
        {"data": [good(), good()], "has_more": False},
        {"data": [good()], "has_more": True},
        {"data": [good()]},
        {"data": good(), "has_more": False},
        {"data": [good(charge_id=None)], "has_more": False},
    ],
    ids=range(7),
)
async def test_other_orders_payments_are_not_believed(page: dict[str, Any]) -> None:
    async with answering_gateway(http(page)) as gateway:
        with pytest.raises(PaymentGatewayError, match="bad_answer"):
            await gateway.find("O-1")


@pytest.mark.parametrize("data", [[], [good()]], ids=["empty", "the same"])
async def test_a_listing_that_goes_in_circles_ends(data: list[Any]) -> None:
    async with answering_gateway(http({"data": data, "has_more": True})) as gateway:
        with pytest.raises(PaymentGatewayError, match="bad_answer"):
            assert [page async for page in gateway.pages(SINCE)] == []


async def test_more_than_any_honest_answer_is_not_read() -> None:
    async with answering_gateway(http(json.dumps(good()).encode() + b" " * 9_000_000)) as gateway:
        with pytest.raises(PaymentGatewayError, match="bad_answer"):
            await gateway.get("pay_1")


async def test_a_good_answer_is_believed() -> None:
    async with answering_gateway(http(good(more="is fine"))) as gateway:
        payment = await gateway.get("pay_1")
        assert (payment.charged, payment.amount_refunded, payment.fee) == (
            PRICE,
            Decimal("0.59"),
            Decimal("0.61"),
        )


@pytest.mark.parametrize("seed", range(60))
async def test_a_damaged_answer_is_an_error_or_still_about_the_same_payment(seed: int) -> None:
    draw = random.Random(seed)
    answer = bytearray(http(good()))
    for _ in range(draw.randint(1, 3)):
        answer[draw.randrange(len(answer))] = draw.randrange(256)
    async with answering_gateway(bytes(answer)) as gateway:
        try:
            payment = await gateway.get("pay_1")
        except PaymentError:
            return
        assert payment.id == "pay_1"
        assert payment.charged >= payment.amount_refunded


# -- silence


async def test_silence_is_a_timeout() -> None:
    async with answering_gateway(None, limit=SHORT_TIMEOUT) as gateway:
        with pytest.raises(PaymentGatewayTimeout):
            await gateway.confirm("pay_1", key="k")


async def test_an_answer_that_drips_is_a_timeout() -> None:
    """Each byte comes in time, the whole does not."""
    async with answering_gateway(http(good()), limit=SHORT_TIMEOUT, pause=0.05, drip=1) as gateway:
        with pytest.raises(PaymentGatewayTimeout):
            await asyncio.wait_for(gateway.confirm("pay_1", key="k"), TIMEOUT / 3)


async def test_waiting_for_a_turn_does_not_count() -> None:
    async with answering_gateway(http(good()), limit=SHORT_TIMEOUT, pause=SHORT_TIMEOUT / 4) as gateway:
        began = time.monotonic()
        answers = await asyncio.gather(*(gateway.get("pay_1") for _ in range(12)))
        assert {answer.id for answer in answers} == {"pay_1"}
        assert time.monotonic() - began > SHORT_TIMEOUT


async def test_connection_refused_is_a_retryable_error() -> None:
    async with answering_gateway(b"") as gateway:
        pass  # its port is free again
    async for error in asked_in_every_way(gateway):
        assert (type(error), error.error_code, error.retryable) == (PaymentGatewayError, "unreachable", True)


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "ftp://127.0.0.1", "http://", "http://127.0.0.1:99999", "http://[::1", "http://\ud800"],
    ids=ascii,
)
async def test_a_wrong_address_is_a_gateway_error(url: str) -> None:
    async for error in asked_in_every_way(SandboxGateway(url, SHORT_TIMEOUT, 1)):
        assert type(error) is PaymentGatewayError


# -- connections


@dataclass
class KeepsConnections:
    """A server that answers each request with the payment it asks for, followed by `more`."""

    more: bytes = b""
    url: str = ""
    before: list[int] = field(default_factory=list)
    """For each request how many its connection had before."""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        before = 0
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                target = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
                self.before.append(before)
                before += 1
                writer.write(kept_open(target.rsplit("/", 1)[1]) + self.more)
        writer.close()


def kept_open(payment_id: str) -> bytes:
    """An answer after which the connection stays open."""
    return http(good(id=payment_id, refunded=0, refunds=[])).replace(b"Connection: close\r\n", b"")


@asynccontextmanager
async def server_that_keeps_connections(more: bytes = b"") -> AsyncIterator[KeepsConnections]:
    made = KeepsConnections(more)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    async with server:
        made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield made


async def test_a_connection_serves_one_request_after_the_other() -> None:
    async with server_that_keeps_connections() as server:
        gateway = SandboxGateway(server.url, TIMEOUT, 1)
        for number in range(3):
            assert (await gateway.get(f"pay_{number}")).id == f"pay_{number}"
        await gateway.aclose()
    assert server.before == [0, 1, 2]


@pytest.mark.parametrize("when", ["at once", "later"])
async def test_an_unrequested_answer_is_ignored(when: str) -> None:
    """Also if it is what the next request asks for: its connection is not used again."""
    unasked = kept_open("pay_2").replace(b"O-1", b"O-2")
    async with server_that_keeps_connections(unasked if when == "at once" else b"") as server:
        gateway = SandboxGateway(server.url, TIMEOUT, 1)
        assert (await gateway.get("pay_1")).id == "pay_1"
        if when == "later":
            server.writers[0].write(unasked)
        assert (await gateway.get("pay_2")).order_id == "O-1"
        await gateway.aclose()
    assert server.before == [0, 0]


async def test_cancellation_is_passed_on_and_frees_its_slot() -> None:
    async with answering_gateway(None, limit=SHORT_TIMEOUT) as gateway:
        waiting = [asyncio.ensure_future(gateway.get("pay_1")) for _ in range(4)]
        await asyncio.wait(waiting, timeout=0.1)
        for task in waiting:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError)
            for end in await asyncio.gather(*waiting, return_exceptions=True)
        )
        with pytest.raises(PaymentGatewayTimeout):
            await gateway.get("pay_1")
