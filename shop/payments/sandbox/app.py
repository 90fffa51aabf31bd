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
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from shop.payments.sandbox.behaviour import Behaviour, Fate
from shop.payments.sandbox.faults import ERRORS, Fault, FaultRule, Move
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
Key = Annotated[str | None, Header(alias="Idempotency-Key")]


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


class NewRefund(BaseModel):
    """Request body of a new refund."""

    model_config = ConfigDict(extra="forbid", strict=True)

    payment_id: str
    amount: int
    currency: str


def create_app(ledger: Ledger) -> FastAPI:
    """Returns the gateway's app on that ledger. One process must serve it, in the thread that created the
    ledger."""
    # Without FastAPI's documentation pages, which load scripts from other sites.
    app = FastAPI(title="Sandbox payment gateway", docs_url=None, redoc_url=None)
    app.add_middleware(BoundedBodies, most_bytes=_MOST_BYTES)
    _answer_errors(app)

    @app.post("/v1/payments")
    async def create(request: Request, new: NewPayment, key: Key = None) -> Response:
        return await _serve(
            request,
            ledger,
            lambda: ledger.create(**new.model_dump(), key=key),
            Move.CREATE,
            order_id=new.order_id,
        )

    @app.post("/v1/payments/{payment_id}/confirm")
    async def confirm(request: Request, payment_id: str, key: Key = None) -> Response:
        return await _serve(
            request, ledger, lambda: ledger.confirm(payment_id, key=key), Move.CONFIRM, payment_id=payment_id
        )

    @app.post("/v1/payments/{payment_id}/cancel")
    async def cancel(request: Request, payment_id: str, key: Key = None) -> Response:
        return await _serve(
            request, ledger, lambda: ledger.cancel(payment_id, key=key), Move.CANCEL, payment_id=payment_id
        )

    @app.post("/v1/refunds")
    async def refund(request: Request, new: NewRefund, key: Key = None) -> Response:
        def work() -> RefundRecord:
            return ledger.refund(new.payment_id, amount=new.amount, currency=new.currency, key=key)

        return await _serve(request, ledger, work, Move.REFUND, payment_id=new.payment_id)

    @app.get("/v1/payments/{payment_id}")
    async def get(request: Request, payment_id: str) -> Response:
        return await _serve(request, ledger, lambda: ledger.get(payment_id), Move.GET, payment_id=payment_id)

    @app.get("/v1/payments")
    async def find_or_list(  # noqa: PLR0917  (query parameters)
        request: Request,
        order_id: str | None = None,
        installation: str | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
        starting_after: str | None = None,
        since: AwareDatetime | None = None,
    ) -> Response:
        """Returns the payments of `order_id` (with `installation`: only those marked with it), oldest first.
        Without `order_id`, returns pages of all payments (with `since`: only those created, charged or
        refunded since then), newest first."""
        if order_id is not None:
            return await _serve(
                request,
                ledger,
                lambda: Page(ledger.find(order_id, installation), has_more=False),
                Move.FIND,
                order_id=order_id,
            )
        return await _serve(
            request,
            ledger,
            lambda: ledger.list(limit=limit, starting_after=starting_after, since=since),
            Move.LIST,
        )

    @app.get("/v1/totals")
    async def totals(request: Request) -> Response:
        return await _serve(request, ledger, ledger.totals, Move.LIST)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/sandbox/behaviour")
    async def behaviour() -> Behaviour:
        return ledger.behaviour

    @app.post("/sandbox/behaviour")
    async def behave(changes: dict[str, Any]) -> Behaviour:
        """Changes the given switches, and restarts the random sequence from the seed."""
        try:
            ledger.behaviour = Behaviour.model_validate(ledger.behaviour.model_dump() | changes)
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from error
        return ledger.behaviour

    return app


async def _serve(
    request: Request,
    ledger: Ledger,
    work: Callable[[], Answer],
    move: Move,
    *,
    order_id: str | None = None,
    payment_id: str | None = None,
) -> Response:
    """Does the work, and applies the faults of the behaviour and of the card to its answer."""
    if (rule := ledger.next_fault(move, order_id=order_id, payment_id=payment_id)) is not None:
        return await _inject(request, ledger, rule, work, payment_id)
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


def _answer(work: Callable[[], Answer]) -> tuple[Response, bool]:
    """Does the work. Returns the answer, and whether it must not arrive."""
    try:
        return _ok(work()), False
    except Refusal as refusal:
        return _error(refusal.status, refusal.code, refusal.message, retryable=refusal.retryable), False
    except AnswerLost as late:
        return _ok(late.payment), True


async def _inject(
    request: Request, ledger: Ledger, rule: FaultRule, work: Callable[[], Answer], payment_id: str | None
) -> Response:
    """Applies the rule's fault to the request."""
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
            return _answer(lambda: ledger.confirm_later(payment_id, rule.ms))[0]
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
            return Response(bytes(response.body)[: len(response.body) // 2], media_type="application/json")
        case Fault.MISLABELLED:
            return Response(response.body, response.status_code, media_type="text/html")
    return response


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


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
        )
        return _error(HTTPStatus.BAD_REQUEST, "invalid_request", problems, retryable=False)

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        return _error(status, status.name.lower(), status.phrase, retryable=False)

    @app.exception_handler(sqlite3.Error)
    async def broken(_: Request, error: sqlite3.Error) -> Response:
        return _error(HTTPStatus.INTERNAL_SERVER_ERROR, "storage_error", str(error))


def _injected_error(status: HTTPStatus) -> Response:
    code = "internal_error" if status == HTTPStatus.INTERNAL_SERVER_ERROR else status.name.lower()
    return _error(status, code, "the sandbox is configured to fail")


def _ok(answer: Answer) -> Response:
    return Response(to_json(answer), media_type="application/json")


def _error(status: HTTPStatus, code: str, message: str, *, retryable: bool = True) -> Response:
    # json.dumps writes ASCII, and therefore accepts lone surrogates that a message may quote.
    body = json.dumps({"error": {"code": code, "message": message, "retryable": retryable}})
    return Response(body, status_code=status, media_type="application/json")
