"""HTTP API of the sandbox gateway, similar to Stripe's PaymentIntents.

Every error is `{"error": {"code", "message", "retryable"}}`; 402 is a refusal by the bank. Errors never
repeat the request's content, as it may be card data. `Behaviour` applies to everything under `/v1`.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sqlite3
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, RootModel, ValidationError
from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shop.payments.sandbox.behaviour import ERRORS, Behaviour, Fate, Fault, FaultRule, Move
from shop.payments.sandbox.ledger import MAX_PAGE, Ledger
from shop.payments.sandbox.records import (
    AnswerLost,
    CurrencyTotals,
    Page,
    PaymentRecord,
    RefundRecord,
    Refusal,
)
from shop.runtime.http_server import SERVER_RECEIVE, BoundedBodies

HOLD_SECONDS = 30.0
"""Limits how long a request whose answer must not arrive is held, in seconds, unless the client disconnects.
"""

_MOST_BYTES = 1_000_000
"""Limits the size of a request body."""
_PAGE = "<!doctype html><title>Welcome</title><p>Please sign in."
Answer = PaymentRecord | RefundRecord | Page | tuple[CurrencyTotals, ...]
Body = TypeVar("Body", bound=BaseModel)


class NewPayment(BaseModel):
    """Request body of a new payment. Amounts are in the smallest unit. There is no field for a card number,
    and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)

    order_id: str
    amount: int
    currency: str
    method: str
    card_last4: str | None = None
    token: str | None = None
    installation: str | None = None
    try_number: int = 1


class Changes(RootModel[dict[str, Any]]):
    """Request body of a change of the behaviour."""


class NewRefund(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    payment_id: str
    amount: int
    currency: str


class Listing(BaseModel):
    """Query of a search or a listing."""

    order_id: str | None = None
    """Whose payments are searched for. None: pages of all payments."""
    installation: str | None = None
    """Of an order's payments, only those marked with it."""
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100
    starting_after: str | None = None
    since: AwareDatetime | None = None
    """Of all payments, only those created, charged or refunded since then."""


def create_app(ledger: Ledger) -> Starlette:
    """Returns the gateway's app on that ledger. One process must serve it, in the thread that created the
    ledger."""
    gateway = _Gateway(ledger)
    # Those of every charge come first: routes are tried one after the other. FastAPI's own work would cost
    # half as much again as everything else in a request.
    return Starlette(
        routes=[
            Route("/v1/payments", gateway.create, methods=["POST"]),
            Route("/v1/payments/{payment_id}/confirm", gateway.confirm, methods=["POST"]),
            Route("/v1/payments", gateway.find_or_list),
            Route("/v1/payments/{payment_id}", gateway.get),
            Route("/v1/payments/{payment_id}/cancel", gateway.cancel, methods=["POST"]),
            Route("/v1/refunds", gateway.refund, methods=["POST"]),
            Route("/v1/totals", gateway.totals),
            Route("/health", gateway.health),
            Route("/sandbox/behaviour", gateway.behaviour),
            Route("/sandbox/behaviour", gateway.behave, methods=["POST"]),
        ],
        middleware=[Middleware(BoundedBodies, most_bytes=_MOST_BYTES)],
        exception_handlers={ValidationError: _invalid, HTTPException: _unknown, sqlite3.Error: _broken},
    )


class _Gateway:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def create(self, request: Request) -> Response:
        new = await _body(request, NewPayment)
        work = partial(self._ledger.create, **new.model_dump(), key=_key(request))
        return await self._serve(request, Move.CREATE, work, order_id=new.order_id)

    async def confirm(self, request: Request) -> Response:
        payment_id = request.path_params["payment_id"]
        work = partial(self._ledger.confirm, payment_id, key=_key(request))
        return await self._serve(request, Move.CONFIRM, work, payment_id=payment_id)

    async def cancel(self, request: Request) -> Response:
        payment_id = request.path_params["payment_id"]
        work = partial(self._ledger.cancel, payment_id, key=_key(request))
        return await self._serve(request, Move.CANCEL, work, payment_id=payment_id)

    async def refund(self, request: Request) -> Response:
        new = await _body(request, NewRefund)
        work = partial(self._ledger.refund, **new.model_dump(), key=_key(request))
        return await self._serve(request, Move.REFUND, work, payment_id=new.payment_id)

    async def get(self, request: Request) -> Response:
        payment_id = request.path_params["payment_id"]
        work = partial(self._ledger.get, payment_id)
        return await self._serve(request, Move.GET, work, payment_id=payment_id)

    async def find_or_list(self, request: Request) -> Response:
        """Returns the payments of an order, oldest first. Without `order_id`, returns pages of all payments,
        newest first."""
        asked = Listing.model_validate(dict(request.query_params))
        if (order_id := asked.order_id) is None:
            work = partial(
                self._ledger.list, **asked.model_dump(include={"limit", "starting_after", "since"})
            )
            return await self._serve(request, Move.LIST, work)
        return await self._serve(
            request,
            Move.FIND,
            lambda: Page(self._ledger.find(order_id, asked.installation), has_more=False),
            order_id=order_id,
        )

    async def totals(self, request: Request) -> Response:
        return await self._serve(request, Move.LIST, self._ledger.totals)

    async def health(self, _: Request) -> Response:
        return _ok({"status": "ok"})

    async def behaviour(self, _: Request) -> Response:
        return _ok(self._ledger.behaviour)

    async def behave(self, request: Request) -> Response:
        """Changes the given switches, and restarts the random sequence from the seed."""
        changes = (await _body(request, Changes)).root
        self._ledger.behaviour = Behaviour.model_validate(self._ledger.behaviour.model_dump() | changes)
        return _ok(self._ledger.behaviour)

    async def _serve(
        self,
        request: Request,
        move: Move,
        work: Callable[[], Answer],
        *,
        order_id: str | None = None,
        payment_id: str | None = None,
    ) -> Response:
        """Does the work, and applies the faults of the behaviour and of the card to its answer."""
        ledger = self._ledger
        if (rule := ledger.next_fault(move, order_id=order_id, payment_id=payment_id)) is not None:
            return await self._inject(request, rule, work, payment_id)
        fate = ledger.next_fate()
        if ledger.behaviour.latency_ms:
            await asyncio.sleep(ledger.behaviour.latency_ms / 1000)
        if fate is Fate.FAILS_BEFORE:
            return _injected_error(HTTPStatus.INTERNAL_SERVER_ERROR)
        response, lost = _answer(work)
        if fate is Fate.FAILS_AFTER:
            return _injected_error(HTTPStatus.INTERNAL_SERVER_ERROR)
        if lost or fate is Fate.HANGS:
            await _hold(request)
        return response

    async def _inject(
        self, request: Request, rule: FaultRule, work: Callable[[], Answer], payment_id: str | None
    ) -> Response:
        match rule.fault:
            case Fault.ERROR_500 | Fault.ERROR_502 | Fault.ERROR_429:
                return _injected_error(ERRORS[rule.fault])
            case Fault.RESET_BEFORE:
                return _reset(request)
            case Fault.WEB_PAGE:
                return Response(_PAGE, media_type="text/html")
            case Fault.DUPLICATE:
                return _error(
                    HTTPStatus.CONFLICT, "duplicate_request", "this is a duplicate of an earlier request"
                )
            case Fault.STALE:
                return _ok(Page((), has_more=False))
            case Fault.PROCESSING if payment_id is not None:
                return _answer(lambda: self._ledger.confirm_later(payment_id, rule.ms))[0]
            case Fault.LATE:
                await _hold(request)
        await asyncio.sleep(rule.ms / 1000)
        response, _ = _answer(work)
        match rule.fault:
            case Fault.ERROR_500_AFTER:
                return _injected_error(ERRORS[rule.fault])
            case Fault.RESET_AFTER:
                return _reset(request)
            case Fault.GARBAGE:
                return Response(b"\x00\xff\xfe{]", media_type="application/json")
            case Fault.TRUNCATED:
                return Response(
                    bytes(response.body)[: len(response.body) // 2], media_type="application/json"
                )
            case Fault.MISLABELLED:
                return Response(response.body, response.status_code, media_type="text/html")
        return response


async def _body(request: Request, shape: type[Body]) -> Body:
    """Returns the request's body in that shape. Raises `HTTPException` for other content than JSON, which the
    pages of other sites could send, and `ValidationError`."""
    content = await request.body()
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    return shape.model_validate_json(content)


def _key(request: Request) -> str | None:
    return request.headers.get("idempotency-key")


def _answer(work: Callable[[], Answer]) -> tuple[Response, bool]:
    """Does the work. Returns the answer, and whether it must not arrive."""
    try:
        return _ok(work()), False
    except Refusal as refusal:
        return _error(refusal.status, refusal.code, refusal.message, retryable=refusal.retryable), False
    except AnswerLost as late:
        return _ok(late.payment), True


def _reset(request: Request) -> Response:
    """Resets the connection without an answer, like a machine that restarts."""
    transport: asyncio.Transport = request.scope[SERVER_RECEIVE].__self__.transport  # uvicorn's
    transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    transport.abort()
    return Response()


async def _hold(request: Request) -> None:
    """Waits until the client disconnects."""
    with suppress(TimeoutError):
        async with asyncio.timeout(HOLD_SECONDS):
            while (await request.receive())["type"] != "http.disconnect":
                pass


def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError)
    problems = "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
        for problem in error.errors(include_input=False)
    )
    return _error(HTTPStatus.BAD_REQUEST, "invalid_request", problems, retryable=False)


def _unknown(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    return _error(status, status.name.lower(), status.phrase, retryable=False)


def _broken(_: Request, error: Exception) -> Response:
    return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "storage_error", str(error))


def _injected_error(status: HTTPStatus) -> Response:
    code = "internal_error" if status == HTTPStatus.INTERNAL_SERVER_ERROR else status.name.lower()
    return _error(status, code, "the sandbox is configured to fail")


def _ok(answer: Answer | Behaviour | dict[str, str]) -> Response:
    return Response(to_json(answer), media_type="application/json")


def _error(status: HTTPStatus, code: str, message: str, *, retryable: bool = True) -> Response:
    # json.dumps writes ASCII, and therefore accepts lone surrogates that a message may quote.
    body = json.dumps({"error": {"code": code, "message": message, "retryable": retryable}})
    return Response(body, status_code=status, media_type="application/json")
