"""The client of an inventory service trusts nothing:
each answer is a reservation that can be true, or an error with a type."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from saga.errors import StepError
from shop.inventory.errors import (
    InventoryMisconfigured,
    InventoryMismatch,
    InventoryRefused,
    InventoryTimeout,
    InventoryUnavailable,
    OutOfStock,
    ReservationLost,
    Shortage,
)
from shop.inventory.service.client import ServiceInventory
from shop.inventory.service.connections import circuit
from shop.inventory.service.contract import Inventory, State
from shop.inventory.service.wire import PROBLEM_JSON, Problem
from shop.inventory.settings import InventorySettings
from tests.integration.scripted_server import Answer, Request, ScriptedServer, answering_server, http, rubbish

TOKEN = "planted-token"
TIMEOUT, SHORT_TIMEOUT = 20.0, 1.0
ITEMS = {"P": 2}
HELD = {
    "order_id": "O-1",
    "id": "RES-O-1",
    "state": "held",
    "items": ITEMS,
    "expires_at": "2026-01-02T03:04:05Z",
}
LEADS_TO = {
    "": "held",
    "/keep": "held",
    "/release": "released",
    "/commit": "shipped",
    "/put-back": "returned",
}


@dataclass
class InventoryServer(ScriptedServer):
    """The client, and what it asked."""

    inventory: ServiceInventory = field(kw_only=True)


@asynccontextmanager
async def answering_service(
    answer: bytes | Answer | None, *, limit: float = TIMEOUT, drip: int = 0
) -> AsyncIterator[InventoryServer]:
    async with answering_server(answer, pause=0.05 if drip else 0, drip=drip) as server:
        inventory = ServiceInventory(server.url, TOKEN, timeout_seconds=limit, concurrency=2)
        yield InventoryServer(server.url, server.asked, inventory=inventory)
        await inventory.aclose()


def problem(kind: str, status: str, *headers: str, **fields: Any) -> bytes:
    return http(
        {"type": kind, "detail": "so it is", **fields}, status, f"Content-Type: {PROBLEM_JSON}", *headers
    )


def asks(inventory: Inventory) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Everything that can be asked about an order."""
    return {
        "reserve": lambda: inventory.reserve("O-1", ITEMS, seconds=60),
        "get": lambda: inventory.get("O-1"),
        "keep": lambda: inventory.keep("O-1", seconds=60),
        "release": lambda: inventory.release("O-1"),
        "commit": lambda: inventory.commit("O-1"),
        "put back": lambda: inventory.put_back("O-1"),
    }


async def refused(ask: Callable[[], Awaitable[Any]]) -> StepError:
    with pytest.raises(StepError) as raised:
        await ask()
    assert TOKEN not in repr(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None, "what was asked, with its token, hangs on to the error"
    json.dumps(raised.value.details()).encode()
    return raised.value


async def test_good_answers_are_believed_and_keys_are_made_of_order_and_step() -> None:
    def answer(request: Request) -> bytes:
        return http(HELD | {"state": LEADS_TO[request.path.removeprefix("/v1/reservations")]})

    async with answering_service(answer) as server:
        states = [(await ask()).state for ask in asks(server.inventory).values()]
        assert states == [State.HELD, State.HELD, State.HELD, State.RELEASED, State.SHIPPED, State.RETURNED]
        assert {request.headers["authorization"] for request in server.asked} == {f"Bearer {TOKEN}"}
        keys = [request.key for request in server.asked]
        for ask in asks(server.inventory).values():
            await ask()
        assert [request.key for request in server.asked[6:]] == keys, "the same request has the same key"
        assert len(set(keys)) == 6, "one for each step, and none for a look-up"


@pytest.mark.parametrize("bad", rubbish(HELD).values(), ids=rubbish(HELD).keys())
async def test_rubbish_is_an_unclear_end(bad: bytes) -> None:
    """Whatever was asked may have been done."""
    async with answering_service(bad) as service:
        for name, ask in asks(service.inventory).items():
            error = await refused(ask)
            assert type(error) is InventoryUnavailable, name
            assert error.retryable


@pytest.mark.parametrize(
    "changes",
    [
        {"order_id": "O-2"},
        {"state": "sold"},
        {"state": None},
        {"items": {"P": "many"}},
        {"items": [1]},
        {"expires_at": "soon"},
        {"id": 7},
    ],
    ids=str,
)
async def test_an_answer_that_cannot_be_true_is_not_believed(changes: dict[str, Any]) -> None:
    async with answering_service(http(HELD | changes)) as server:
        for ask in asks(server.inventory).values():
            # one that can be read, and is another order's or has other items, is told apart
            assert type(await refused(ask)) in {InventoryUnavailable, InventoryMismatch}


@pytest.mark.parametrize(
    ("operation", "answered"),
    [
        ("reserve", {"state": "released"}),
        ("reserve", {"state": "expired"}),
        ("reserve", {"items": {"P": 1}}),
        ("reserve", {"items": {"P": 2, "Q": 1}}),
        ("commit", {"state": "held"}),
        ("commit", {"state": "returned"}),
        ("release", {"state": "held"}),
        ("put back", {"state": "shipped"}),
        ("put back", {"state": "held"}),
    ],
    ids=str,
)
async def test_a_state_that_the_request_cannot_lead_to_is_not_believed(
    operation: str, answered: dict[str, Any]
) -> None:
    async with answering_service(http(HELD | answered)) as server:
        assert type(await refused(asks(server.inventory)[operation])) is InventoryMismatch


SHORT = [{"product_id": "P", "requested": 2, "available": 1}]


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (problem(Problem.LOST, "409 Conflict"), ReservationLost, "so it is"),
        (problem(Problem.REFUSED, "409 Conflict"), InventoryRefused, "so it is"),
        (problem(Problem.INVALID, "422 Unprocessable"), InventoryRefused, "so it is"),
        (problem("about:blank", "400 Bad Request"), InventoryRefused, "so it is"),
        (problem("about:blank", "409 Conflict", detail=""), InventoryRefused, "without a reason"),
        (http(b"<html>", "409 Conflict"), InventoryRefused, "without a reason"),
        (
            problem(Problem.UNAUTHORIZED, "401 Unauthorized"),
            InventoryMisconfigured,
            "INVENTORY_SERVICE_TOKEN",
        ),
        (http(b"", "403 Forbidden"), InventoryMisconfigured, "INVENTORY_SERVICE_TOKEN"),
        (http(b"<html>", "404 Not Found"), InventoryMisconfigured, "INVENTORY_SERVICE_URL"),
        (problem(Problem.NOT_FOUND, "405 Not Allowed"), InventoryMisconfigured, "INVENTORY_SERVICE_URL"),
        (http(b"", "408 Request Timeout"), InventoryUnavailable, "408"),
        (problem(Problem.UNAVAILABLE, "503 Unavailable", "Retry-After: 2"), InventoryUnavailable, "503"),
        (http(b"", "500 Oh"), InventoryUnavailable, "500"),
        (http(b"", "302 Found", "Location: /"), InventoryUnavailable, "302"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
async def test_every_no_has_its_type(answer: bytes, kind: type[StepError], says: str) -> None:
    async with answering_service(answer) as server:
        for name, ask in asks(server.inventory).items():
            error = await refused(ask)
            assert type(error) is kind, name
            assert says in str(error)
            assert error.retryable is (kind is InventoryUnavailable)


@pytest.mark.parametrize(
    ("answer", "short"),
    [
        (problem(Problem.OUT_OF_STOCK, "409 Conflict", shortages=SHORT), [Shortage("P", 2, 1)]),
        (problem(Problem.UNKNOWN_PRODUCT, "404 Not Found", shortages=SHORT), [Shortage("P", 2, 1)]),
        (problem(Problem.UNKNOWN_PRODUCT, "404 Not Found"), [Shortage("P", 2, 0)]),
    ],
    ids=["short", "unknown", "unknown, not saying which"],
)
async def test_what_is_short_is_reported_item_by_item(answer: bytes, short: list[Shortage]) -> None:
    async with answering_service(answer) as server:
        error = await refused(asks(server.inventory)["reserve"])
        assert isinstance(error, OutOfStock)
        assert list(error.shortages) == short


@pytest.mark.parametrize(
    "changes",
    [{"product_id": "Q"}, {"requested": 3}, {"requested": 1}, {"available": 2}, {"available": 9}],
    ids=str,
)
@pytest.mark.parametrize("kind", [Problem.OUT_OF_STOCK, Problem.UNKNOWN_PRODUCT])
async def test_what_is_short_must_be_what_was_asked_for(kind: Problem, changes: dict[str, Any]) -> None:
    status = "409 Conflict" if kind is Problem.OUT_OF_STOCK else "404 Not Found"
    async with answering_service(problem(kind, status, shortages=[SHORT[0] | changes])) as server:
        assert type(await refused(asks(server.inventory)["reserve"])) is InventoryMismatch


async def test_out_of_stock_without_a_product_is_no_refusal() -> None:
    async with answering_service(problem(Problem.OUT_OF_STOCK, "409 Conflict")) as server:
        assert type(await refused(asks(server.inventory)["reserve"])) is InventoryRefused


async def test_nothing_known_is_none() -> None:
    async with answering_service(problem(Problem.NO_RESERVATION, "404 Not Found")) as server:
        assert await server.inventory.get("O-1") is None
        assert await server.inventory.keep("O-1", seconds=60) is None


@pytest.mark.parametrize(
    ("header", "seconds"), [("90", 90.0), ("0", 1.0), ("999999", 300.0), ("soon", 5.0), ("nan", 5.0)]
)
async def test_a_limit_is_honoured_within_reason(header: str, seconds: float) -> None:
    async with answering_service(http(b"", "429 Too Many", f"Retry-After: {header}")) as server:
        for ask in asks(server.inventory).values():
            error = await refused(ask)
            assert isinstance(error, InventoryUnavailable)
            assert error.retry_after == seconds
        assert len(server.asked) == 6, "nothing is sent again at once"


async def test_only_what_changes_nothing_is_sent_again_at_once() -> None:
    async with answering_service(http(b"", "500 Oh")) as server:
        for ask in asks(server.inventory).values():
            await refused(ask)
        sent = [request.path for request in server.asked]
        assert sent.count("/v1/reservations") == 1 + 3, "reserved once, looked up three times"
        assert [
            sent.count(f"/v1/reservations{path}") for path in ("/keep", "/release", "/commit", "/put-back")
        ] == [1, 1, 1, 1]


@pytest.mark.parametrize("drip", [0, 1])
async def test_silence_is_a_timeout(drip: int) -> None:
    """Also of an answer whose bytes each come in time."""
    async with answering_service(http(HELD) if drip else None, limit=SHORT_TIMEOUT, drip=drip) as server:
        for ask in asks(server.inventory).values():
            assert type(await refused(ask)) is InventoryTimeout


async def test_connection_refused() -> None:
    async with answering_server(b"") as gone:
        pass  # its port is free again
    inventory = ServiceInventory(gone.url, TOKEN, timeout_seconds=TIMEOUT, concurrency=2)
    for ask in asks(inventory).values():
        assert "cannot be reached" in str(await refused(ask))
    await inventory.aclose()


async def test_a_caller_that_stops_waiting_frees_its_slot() -> None:
    async with answering_service(None, limit=SHORT_TIMEOUT) as server:
        waiting = [asyncio.ensure_future(server.inventory.get("O-1")) for _ in range(4)]
        await asyncio.wait(waiting, timeout=0.1)
        for task in waiting:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError)
            for end in await asyncio.gather(*waiting, return_exceptions=True)
        )
        assert type(await refused(asks(server.inventory)["get"])) is InventoryTimeout


class TestTheBreaker:
    """Three failures in a row, and the service is left alone."""

    async def run(self, answer: bytes, times: int = 5) -> tuple[list[str], int, list[str | None]]:
        state_changes: list[str | None] = []
        async with answering_service(answer) as server:
            s = InventorySettings(INVENTORY_BREAKER_FAILURES=3, INVENTORY_BREAKER_SECONDS=60)
            guarded = ServiceInventory(
                server.url,
                TOKEN,
                timeout_seconds=TIMEOUT,
                concurrency=2,
                circuit=circuit(s, state_changes.append),
            )
            ends = []
            for _ in range(times):
                try:
                    ends.append(str((await guarded.commit("O-1")).state))
                except StepError as error:
                    ends.append(f"{error.code}, wait" if getattr(error, "retry_after", None) else error.code)
            await guarded.aclose()
            return ends, len(server.asked), state_changes

    async def test_a_failing_service_is_not_called_for_a_while(self) -> None:
        ends, asked, state_changes = await self.run(http(b"", "500 Oh"))
        assert ends == ["inventory_unavailable"] * 2 + ["inventory_unavailable, wait"] * 3
        assert asked == 3
        assert len(state_changes) == 1, "and it is reported once"

    @pytest.mark.parametrize(
        "answer",
        [
            problem(Problem.LOST, "409 Conflict"),
            problem(Problem.OUT_OF_STOCK, "409 Conflict", shortages=SHORT),
            problem(Problem.REFUSED, "409 Conflict"),
            http(b"", "429 Too Many", "Retry-After: 5"),
            http(HELD | {"state": "shipped"}),
        ],
        ids=["lost", "short", "refused", "limited", "yes"],
    )
    async def test_a_clear_answer_is_a_service_at_work(self, answer: bytes) -> None:
        _, asked, state_changes = await self.run(answer)
        assert (asked, state_changes) == (5, [])
