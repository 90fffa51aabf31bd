"""What localstripe never says: limits, wrong keys, conflicts,
stored failures, rubbish, silence; and Stripe's search."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from shop.payments.errors import (
    PaymentDeclined,
    PaymentError,
    PaymentGatewayError,
    PaymentGatewayTimeout,
    PaymentGatewayUnavailable,
    PaymentKeyRefused,
)
from shop.payments.gateway import Payment, PaymentStatus
from shop.payments.gateways import GatewayGuard
from shop.payments.stripe.gateway import StripeGateway
from tests.integration.scripted_server import Answer, Request, ScriptedServer, answering_server, http
from tests.integration.test_sandbox_answers import RUBBISH

KEY = "sk_test_planted"
PRICE = Decimal("10.59")
TIMEOUT, SHORT_TIMEOUT = 20.0, 1.0
CREATED = 1_790_000_000

REFUND = {
    "id": "re_1",
    "object": "refund",
    "amount": 59,
    "currency": "usd",
    "created": CREATED + 9,
    "status": "succeeded",
}
REFUND |= {"payment_intent": "pi_1", "metadata": {"key": "other"}}
CHARGE = {
    "id": "ch_1",
    "object": "charge",
    "created": CREATED + 5,
    "status": "succeeded",
    "payment_intent": "pi_1",
    "balance_transaction": {
        "id": "txn_1",
        "object": "balance_transaction",
        "fee": 61,
        "currency": "usd",
        "exchange_rate": None,
    },
    "refunds": {"object": "list", "data": [REFUND], "has_more": False},
}
INTENT: dict[str, Any] = {
    "id": "pi_1",
    "object": "payment_intent",
    "amount": 1059,
    "currency": "usd",
    "created": CREATED,
    "status": "succeeded",
    "metadata": {"order_id": "O-1", "method": "credit_card"},
    "latest_charge": CHARGE,
    "last_payment_error": None,
}
OPEN = INTENT | {"status": "requires_confirmation", "latest_charge": None}


@dataclass
class StripeServer(ScriptedServer):
    """A gateway, and what it was asked by the client."""

    gateway: StripeGateway = field(kw_only=True)


@asynccontextmanager
async def answering_stripe(
    answer: bytes | Answer | None, *, limit: float = TIMEOUT, page: int = 100, concurrency: int = 2
) -> AsyncIterator[StripeServer]:
    """A Stripe that says just this to everything,
    or what a function of the request says; None: nothing at all."""
    async with answering_server(answer) as server:
        gateway = StripeGateway(server.url, KEY, limit, concurrency, page=page)
        yield StripeServer(server.url, server.asked, gateway=gateway)
        await gateway.aclose()


def error(status: str, *headers: str, **fields: Any) -> bytes:
    return http({"error": {"type": "api_error", "message": "so it is", **fields}}, status, *headers)


def page(*data: Any, more: bool = False) -> bytes:
    return http({"object": "list", "data": list(data), "has_more": more})


async def new(gateway: StripeGateway) -> Payment:
    return await gateway.create(
        order_id="O-1",
        amount=PRICE,
        currency="USD",
        method="credit_card",
        card_last4=None,
        token="pm_card_visa",
        key="create",
    )


async def asked_in_every_way(gateway: StripeGateway) -> AsyncIterator[PaymentError]:
    """The error that each method ends in."""

    async def listed() -> None:
        async for _ in gateway.pages(datetime(2020, 1, 1, tzinfo=UTC)):
            pass

    asks: list[Callable[[], Awaitable[object]]] = [
        lambda: new(gateway),
        lambda: gateway.confirm("pi_1", key="confirm"),
        lambda: gateway.get("pi_1"),
        lambda: gateway.find("O-1"),
        lambda: gateway.cancel("pi_1", key="cancel"),
        lambda: gateway.refund("pi_1", amount=PRICE, currency="USD", key="refund"),
        listed,
    ]
    for ask in asks:
        with pytest.raises(PaymentError) as raised:
            await ask()
        assert KEY not in repr(raised.value)
        assert raised.value.__cause__ is None
        assert raised.value.__context__ is None, "what Stripe answered hangs on to the error"
        yield raised.value


async def test_the_limit_of_requests_is_honoured() -> None:
    async with answering_stripe(
        error("429 Too Many Requests", "Retry-After: 7", code="rate_limit")
    ) as server:
        async for raised in asked_in_every_way(server.gateway):
            assert (type(raised), raised.error_code, raised.retryable, raised.retry_after) == (
                PaymentGatewayError,
                "rate_limit",
                True,
                7.0,
            )
        assert len(server.asked) == 7, "the SDK tries nothing again by itself"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("999999", 300.0), ("0", None), ("-1", None), ("soon", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None)],
)
async def test_a_wait_that_makes_no_sense_is_not_honoured(header: str, seconds: float | None) -> None:
    async with answering_stripe(error("429 Too Many Requests", f"Retry-After: {header}")) as server:
        with pytest.raises(PaymentGatewayError) as raised:
            await server.gateway.get("pi_1")
        assert (raised.value.retryable, raised.value.retry_after) == (True, seconds)


async def test_a_wrong_key_stops_at_once_and_names_the_setting() -> None:
    async with answering_stripe(
        error("401 Unauthorized", message=f"Invalid API Key provided: {KEY}")
    ) as server:
        async for raised in asked_in_every_way(server.gateway):
            assert (type(raised), raised.error_code, raised.retryable) == (
                PaymentKeyRefused,
                "authentication",
                True,
            )
            assert raised.retry_after is not None, "no retry by the task: the order waits"
            assert "STRIPE_API_KEY" in str(raised)


async def test_a_key_without_the_right_names_the_setting() -> None:
    async with answering_stripe(error("403 Forbidden")) as server:
        with pytest.raises(PaymentGatewayError, match="STRIPE_API_KEY") as raised:
            await new(server.gateway)
        assert (raised.value.error_code, raised.value.retryable) == ("permission", False)


@pytest.mark.parametrize(
    ("answer", "code", "retryable"),
    [
        (
            error("409 Conflict", code="idempotency_key_in_use", type="idempotency_error"),
            "idempotency_key_in_use",
            True,
        ),
        (error("400 Bad Request", type="idempotency_error"), "idempotency_conflict", False),
        (error("429 Too Many Requests", code="lock_timeout"), "lock_timeout", True),
        (error("500 Internal Server Error"), "http_500", True),
        (error("503 Service Unavailable", code="api_unavailable"), "api_unavailable", True),
        (http(b"<html>", "502 Bad Gateway"), "http_502", True),
        (http(b"<html>", "404 Not Found"), "http_404", False),
    ],
    ids=["key in use", "another request", "locked", "500", "503", "502", "404"],
)
async def test_errors_are_distinguished(answer: bytes, code: str, retryable: bool) -> None:
    async with answering_stripe(answer) as server:
        with pytest.raises(PaymentGatewayError) as raised:
            await new(server.gateway)
        assert (raised.value.error_code, raised.value.retryable, raised.value.retry_after) == (
            code,
            retryable,
            None,
        )
        assert len(server.asked) == 1


async def test_what_concerns_one_payment_does_not_open_the_circuit() -> None:
    async with answering_stripe(error("429 Too Many Requests", code="lock_timeout")) as server:
        guard = GatewayGuard(failures=2, pause_seconds=60, concurrency=2, on_change=lambda _: None)
        for _ in range(4):
            with pytest.raises(PaymentGatewayError, match="lock_timeout"):
                await guard(lambda: server.gateway.get("pi_1"))
    async with answering_stripe(error("500 Internal Server Error")) as server:
        guard = GatewayGuard(failures=2, pause_seconds=60, concurrency=2, on_change=lambda _: None)
        with pytest.raises(PaymentGatewayError, match="http_500"):
            await guard(lambda: server.gateway.get("pi_1"))
        for _ in range(2):
            with pytest.raises(PaymentGatewayUnavailable):
                await guard(lambda: server.gateway.get("pi_1"))


async def test_a_decline_has_the_banks_word() -> None:
    no = error(
        "402 Payment Required",
        type="card_error",
        code="card_declined",
        decline_code="insufficient_funds",
        message="no\x00" * 200,
    )
    async with answering_stripe(no) as server:
        with pytest.raises(PaymentDeclined) as raised:
            await server.gateway.confirm("pi_1", key="k")
        assert raised.value.error_code == "insufficient_funds"
        assert raised.value.error_message.startswith("no?no?")
        assert len(raised.value.error_message) <= 300
        assert server.lines == ["POST /v1/payment_intents/pi_1/confirm"]


async def test_the_callers_key_is_the_idempotency_key() -> None:
    async with answering_stripe(http(OPEN)) as server:
        await new(server.gateway)
        assert [request.key for request in server.asked] == ["create"]


async def test_a_stored_failure_is_not_asked_for_for_ever() -> None:
    """Stripe repeats an error 500 to its key for a day."""

    def answer(request: Request) -> bytes:
        if request.method == "GET":
            return http(OPEN)
        if request.key in {"confirm", "confirm-req_1"}:
            first = "req_1" if request.key == "confirm" else "req_2"
            return error(
                "500 Internal Server Error", "Idempotent-Replayed: true", f"Original-Request: {first}"
            )
        return http(INTENT)

    async with answering_stripe(answer) as server:
        assert (await server.gateway.confirm("pi_1", key="confirm")).charged == PRICE
        keys = [request.key for request in server.asked if request.method == "POST"]
        assert keys == ["confirm", "confirm-req_1", "confirm-req_1-req_2"], (
            "made of nothing random: another worker asks the same"
        )


async def test_a_failure_that_is_not_stored_is_left_to_the_caller() -> None:
    async with answering_stripe(error("500 Internal Server Error", "Original-Request: req_1")) as server:
        with pytest.raises(PaymentGatewayError, match="http_500"):
            await server.gateway.confirm("pi_1", key="confirm")
        assert len(server.asked) == 1


async def test_a_stored_refusal_to_cancel_is_not_believed_once_the_payment_is_another() -> None:
    """It was `processing`, and could not be cancelled. Now it can, and could still be paid."""
    cancelled = False

    def answer(request: Request) -> bytes:
        nonlocal cancelled
        if request.method == "GET":
            return http(OPEN | {"status": "canceled" if cancelled else "requires_payment_method"})
        if request.key == "cancel":
            return error("400 Bad Request", "Idempotent-Replayed: true", "Original-Request: req_1")
        cancelled = True
        return http(OPEN | {"status": "canceled"})

    async with answering_stripe(answer) as server:
        assert (await server.gateway.cancel("pi_1", key="cancel")).status is PaymentStatus.CANCELLED
        assert [request.key for request in server.asked if request.method == "POST"] == [
            "cancel",
            "cancel-req_1",
        ]


async def test_stored_failures_have_an_end() -> None:
    async with answering_stripe(
        error("500 Oh", "Idempotent-Replayed: true", "Original-Request: req_1")
    ) as server:
        with pytest.raises(PaymentGatewayError) as raised:
            await new(server.gateway)
        assert raised.value.retryable
        assert len(server.asked) == 4


async def test_a_refund_behind_a_stored_failure_is_not_made_twice() -> None:
    """The request that failed did give the money back: the look-up before the next one sees it."""
    given: list[dict[str, Any]] = []

    def answer(request: Request) -> bytes:
        if request.method == "GET":
            return http(INTENT | {"latest_charge": CHARGE | {"refunds": {"data": given, "has_more": False}}})
        given.append(REFUND | {"id": "re_9", "amount": 1059, "metadata": {"key": "refund"}})
        return error("500 Oh", "Idempotent-Replayed: true", "Original-Request: req_1")

    async with answering_stripe(answer) as server:
        refund = await server.gateway.refund("pi_1", amount=PRICE, currency="USD", key="refund")
        assert (refund.id, len(given)) == ("re_9", 1)


async def test_an_old_answer_is_not_believed() -> None:
    """To the same key Stripe says what it said first:
    that the bank asks. Meanwhile the customer has answered."""

    def answer(request: Request) -> bytes:
        return http(INTENT if request.method == "GET" else OPEN | {"status": "requires_action"})

    async with answering_stripe(answer) as server:
        assert (await server.gateway.confirm("pi_1", key="confirm")).charged == PRICE


async def test_a_bank_that_has_not_decided_is_waited_for() -> None:
    async with answering_stripe(http(OPEN | {"status": "processing"})) as server:
        for ask in (server.gateway.confirm("pi_1", key="k"), server.gateway.cancel("pi_1", key="k")):
            with pytest.raises(PaymentGatewayError) as raised:
                await ask
            assert (raised.value.error_code, raised.value.retryable) == ("processing", True)
            assert raised.value.retry_after


@pytest.mark.parametrize("rubbish", RUBBISH.keys())
async def test_rubbish_is_a_retryable_gateway_error(rubbish: str) -> None:
    async with answering_stripe(RUBBISH[rubbish]) as server:
        async for raised in asked_in_every_way(server.gateway):
            assert type(raised) is PaymentGatewayError
            assert raised.retryable
            json.dumps(raised.details()).encode()


LOST: Any = object()
CONTRADICTIONS: list[dict[str, Any]] = [
    {"id": LOST},
    {"id": "pi_2"},
    {"id": "../x"},
    {"status": "paid"},
    {"status": LOST},
    {"amount": "1059"},
    {"amount": 1059.0},
    {"amount": -1},
    {"amount": 58},
    {"currency": "USD"},
    {"currency": "eur"},
    {"created": "yesterday"},
    {"metadata": []},
    {"latest_charge": None},
    {"latest_charge": "ch_1"},
    {"latest_charge": CHARGE | {"created": None}},
    {"latest_charge": CHARGE | {"refunds": {"data": [REFUND | {"amount": 1060}], "has_more": False}}},
    {"latest_charge": CHARGE | {"refunds": {"data": [REFUND | {"currency": "eur"}], "has_more": False}}},
]


@pytest.mark.parametrize(
    "changes", CONTRADICTIONS, ids=lambda changes: ascii(changes).replace(repr(LOST), "lost")[:60]
)
async def test_a_payment_that_cannot_be_true_is_not_believed(changes: dict[str, Any]) -> None:
    bank_refusal = {name: value for name, value in (INTENT | changes).items() if value is not LOST}
    async with answering_stripe(http(bank_refusal)) as server:
        for ask in (server.gateway.get("pi_1"), server.gateway.confirm("pi_1", key="k")):
            with pytest.raises(PaymentGatewayError) as raised:
                await ask
            assert (raised.value.error_code, raised.value.retryable) == ("bad_answer", True)


async def test_a_good_answer_is_believed() -> None:
    async with answering_stripe(http(INTENT | {"more": "is fine"})) as server:
        payment = await server.gateway.get("pi_1")
        assert (payment.charged, payment.amount_refunded, payment.fee, payment.kept) == (
            PRICE,
            Decimal("0.59"),
            Decimal("0.61"),
            10,
        )
        assert (payment.transaction_id, [refund.id for refund in payment.refunds]) == ("ch_1", ["re_1"])


@pytest.mark.parametrize(
    ("status", "kept"), [("failed", "10.59"), ("canceled", "10.59"), ("pending", "10.00")]
)
async def test_a_refund_that_failed_gave_nothing_back(status: str, kept: str) -> None:
    charge = CHARGE | {"refunds": {"data": [REFUND | {"status": status}], "has_more": False}}
    async with answering_stripe(http(INTENT | {"latest_charge": charge})) as server:
        assert (await server.gateway.get("pi_1")).kept == Decimal(kept)


async def test_the_fee_is_reported_in_the_payments_currency() -> None:
    settled = {"fee": 60, "currency": "eur", "exchange_rate": 0.8}
    async with answering_stripe(
        http(INTENT | {"latest_charge": CHARGE | {"balance_transaction": settled}})
    ) as server:
        assert (await server.gateway.get("pi_1")).fee == Decimal("0.75")
    async with answering_stripe(
        http(INTENT | {"latest_charge": CHARGE | {"balance_transaction": None}})
    ) as server:
        assert (await server.gateway.get("pi_1")).fee == 0


# -- search and lists, as Stripe has them


async def test_search_is_a_hint_and_each_payment_is_looked_up() -> None:
    """Search says that it is open, which it was a minute ago;
    it finds `o-1`, too; and it does not show the newest one yet."""
    known = {
        "pi_1": INTENT,
        "pi_2": INTENT | {"id": "pi_2", "metadata": {"order_id": "o-1"}},
        "pi_3": OPEN | {"id": "pi_3", "created": int(datetime.now(UTC).timestamp())},
    }

    def answer(request: Request) -> bytes:
        if request.path == "/v1/payment_intents/search":
            assert request.query["query"] == "metadata['order_id']:'O-1'"
            return page(OPEN, known["pi_2"])
        if request.path == "/v1/payment_intents":
            return page(known["pi_3"], INTENT | {"id": "pi_4", "metadata": {}}, more=True)
        return http(known[request.path.rsplit("/", 1)[1]])

    async with answering_stripe(answer) as server:
        found = await server.gateway.find("O-1")
        assert [(payment.id, payment.status) for payment in found] == [
            ("pi_1", PaymentStatus.SUCCEEDED),
            ("pi_3", PaymentStatus.CREATED),
        ]
        assert server.lines.count("GET /v1/payment_intents") == 1, "what is older, search knows"


@pytest.mark.parametrize(("order_id", "quoted"), [("it's", r"it\'s"), ("a\\b", r"a\\b")])
async def test_no_order_id_gets_out_of_its_quotes(order_id: str, quoted: str) -> None:
    async with answering_stripe(page()) as server:
        assert await server.gateway.find(order_id) == []
        assert server.asked[0].query["query"] == f"metadata['order_id']:'{quoted}'"


async def test_without_search_the_list_is_gone_through_and_search_is_not_asked_again() -> None:
    now = int(datetime.now(UTC).timestamp())

    def answer(request: Request) -> bytes:
        if request.path == "/v1/payment_intents/search":
            return error("400 Bad Request", type="invalid_request_error", message="Search is not available")
        if "starting_after" not in request.query:
            return page(INTENT | {"id": "pi_9", "metadata": {"order_id": "O-9"}, "created": now}, more=True)
        return page(
            INTENT | {"created": now - 3600}, INTENT | {"id": "pi_0", "created": CREATED - 9}, more=False
        )

    async with answering_stripe(answer) as server:
        for _ in range(2):
            assert [payment.id for payment in await server.gateway.find("O-1")] == ["pi_1"], (
                "the other one is older than two days"
            )
        assert server.lines.count("GET /v1/payment_intents/search") == 1


async def test_pages_end_with_what_is_older_and_have_what_moved_since() -> None:
    """An old payment that was charged since, one that was refunded since,
    one that was both; and one that names no order: an order may have been paid by it."""

    def intent(number: int, created: int, **more: Any) -> dict[str, Any]:
        return OPEN | {"id": f"pi_{number}", "created": CREATED + created, **more}

    def reference(kind: str, number: int, created: int) -> dict[str, Any]:
        return {
            "id": f"{kind}_{number}",
            "object": "charge",
            "created": CREATED + created,
            "payment_intent": f"pi_{number}",
        }

    known = {n: intent(n, at) for n, at in {1: 100, 2: 90, 3: -10, 4: -20, 5: -30, 6: -40}.items()}
    known[7] = intent(7, -50, metadata={})
    asked_after: list[str] = []

    def answer(request: Request) -> bytes:
        if request.path == "/v1/payment_intents":
            asked_after.append(request.query.get("starting_after", ""))
            return (
                page(known[1], known[2], more=True)
                if not asked_after[-1]
                else page(known[3], known[4], more=True)
            )
        if request.path == "/v1/charges":
            return page(
                reference("ch", 1, 105),
                reference("ch", 3, 50),
                reference("ch", 5, 40),
                reference("ch", 4, -15),
            )
        if request.path == "/v1/refunds":
            return page(
                reference("re", 5, 60), reference("re", 6, 30), reference("re", 7, 20), reference("re", 4, -1)
            )
        return http(known[int(request.path.rsplit("_", 1)[1])])

    async with answering_stripe(answer) as server:
        pages = [
            [payment.id for payment in listed]
            async for listed in server.gateway.pages(datetime.fromtimestamp(CREATED, UTC))
        ]
    assert pages == [["pi_1", "pi_2"], ["pi_3", "pi_5"], ["pi_6", "pi_7"]]
    assert asked_after == ["", "pi_2"]


@pytest.mark.parametrize("data", [[], [INTENT], [INTENT, INTENT]], ids=["empty", "the same", "twice"])
async def test_a_listing_that_goes_in_circles_ends(data: list[Any]) -> None:
    async with answering_stripe(page(*data, more=True)) as server:
        with pytest.raises(PaymentGatewayError, match="bad_answer"):
            async for _ in server.gateway.pages(datetime(2020, 1, 1, tzinfo=UTC)):
                pass


# -- silence


async def test_silence_is_a_timeout() -> None:
    async with answering_stripe(None, limit=SHORT_TIMEOUT) as server:
        async for raised in asked_in_every_way(server.gateway):
            assert type(raised) is PaymentGatewayTimeout


async def test_connection_refused_is_a_retryable_error() -> None:
    async with answering_stripe(b"") as server:
        pass  # its port is free again
    async for raised in asked_in_every_way(server.gateway):
        assert (type(raised), raised.error_code, raised.retryable) == (
            PaymentGatewayError,
            "unreachable",
            True,
        )


async def test_more_than_any_honest_answer_is_not_read() -> None:
    async with answering_stripe(http(json.dumps(INTENT).encode() + b" " * 9_000_000)) as server:
        with pytest.raises(PaymentGatewayError, match="bad_answer"):
            await server.gateway.get("pi_1")


@pytest.mark.parametrize("key", ["sk_test_a\nb", "sk_test_ü", "sk_test_\x00"], ids=ascii)
async def test_a_key_that_cannot_be_sent_is_not_shown(key: str) -> None:
    async with answering_stripe(http(OPEN)) as server:
        gateway = StripeGateway(server.url, key, TIMEOUT, 1)
        with pytest.raises(PaymentGatewayError) as raised:
            await new(gateway)
        await gateway.aclose()
        assert server.asked == []
    assert (raised.value.error_code, raised.value.retryable) == ("invalid_request", False)
    assert "sk_test" not in repr(raised.value) + repr(raised.value.__context__) + repr(raised.value.__cause__)


async def test_cancellation_is_passed_on_and_frees_its_slot() -> None:
    async with answering_stripe(None, limit=SHORT_TIMEOUT, concurrency=1) as server:
        waiting = [asyncio.ensure_future(server.gateway.get("pi_1")) for _ in range(4)]
        await asyncio.wait(waiting, timeout=0.1)
        for task in waiting:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError)
            for end in await asyncio.gather(*waiting, return_exceptions=True)
        )
        with pytest.raises(PaymentGatewayTimeout):
            await server.gateway.get("pi_1")
