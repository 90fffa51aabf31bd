"""The payment of an order over HTTP: what a page needs on which the customer answers the bank (3-D Secure),
and the money that came by transfer or on delivery."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from deployments.web.order_parts import PartRoute, invalid, post_part
from deployments.web.orders import (
    BODY_PROBLEMS,
    DATABASE_SECONDS,
    ID_SCHEMA,
    NO_CONTROL,
    PROBLEMS,
    known_id,
    status_url,
)
from deployments.web.problems import ProblemError, Wrong, pointer
from deployments.web.requests import read_json, require_key
from saga.connections import answered_within
from saga.database import retry_while_database_down
from shop.payments.customer import OrderPayment, read_payment
from shop.payments.errors import (
    NotPaidThisWay,
    NotReceivable,
    PayableOrderUnknown,
    PaymentError,
    ReferenceConflict,
)
from shop.payments.gateways import gateway
from shop.payments.recording import MoneyReceived, Received, read_incoming, record
from shop.review.errors import OrderUnknown

router = APIRouter(tags=["orders"], dependencies=[Depends(require_key)], route_class=PartRoute)
_GATEWAY_SECONDS = 6.0
"""Limits the wait for the gateway, in seconds: then the answer is 503."""


@router.get("/orders/{order_id:path}/payment", responses=PROBLEMS)
async def payment(order_id: str) -> OrderPayment:
    """Returns the state of the order's payment; while the bank waits for the customer, with the gateway's
    client secret, which is read from the gateway now."""
    usable = known_id(order_id)
    try:
        with answered_within(DATABASE_SECONDS + _GATEWAY_SECONDS):
            found = await read_payment(usable, gateway(), seconds=_GATEWAY_SECONDS)
    except PaymentError as error:
        raise ProblemError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"the payment gateway does not say how the payment is ({error.code}): try again",
            kind="payment-gateway",
            headers={"Retry-After": "5"},
        ) from None
    if found is None:
        raise OrderUnknown(usable)
    return found


def _schema() -> dict[str, Any]:
    schema = MoneyReceived.model_json_schema()
    # Pydantic does not describe the rules of ids, words and positive amounts.
    schema["properties"]["reference"] |= {name: ID_SCHEMA[name] for name in ("pattern", "maxLength")}
    schema["properties"]["recorded_by"]["pattern"] = rf"[^\s{NO_CONTROL}]"
    amount = schema["properties"]["amount"]
    amount["anyOf"] = [
        {"type": "integer", "minimum": 1, "maximum": 10**12 - 1},
        {"type": "string", "pattern": r"^(?=.*[1-9])[0-9]{1,12}(\.[0-9]{1,6})?$"},
    ]
    return schema


@post_part(
    router,
    "payments",
    "record_payment_by_query",
    "Records money that came for an order",
    status_code=HTTPStatus.CREATED,
    responses={
        HTTPStatus.OK: {"model": Received, "description": "The same was recorded before"},
        HTTPStatus.CREATED: {"model": Received, "description": "The payment is recorded"},
        **PROBLEMS,
        **BODY_PROBLEMS,
    },
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _schema()}}}},
)
async def record_payment(order_id: str, request: Request, response: Response) -> Received:
    """Records money that came for the order by transfer or on delivery. An order that waits for it continues
    once all of it is recorded. Sending the same again changes nothing."""
    body, usable = await read_json(request), known_id(order_id)
    if isinstance(body, dict) and "order_id" in body:
        raise invalid([Wrong(detail="the address has the order's id", pointer=pointer("order_id"))])
    try:
        payment = read_incoming({**body, "order_id": usable} if isinstance(body, dict) else body)
        received = await retry_while_database_down(lambda: record(payment), seconds=DATABASE_SECONDS)
    except PayableOrderUnknown:
        raise OrderUnknown(usable) from None
    except NotReceivable as error:
        raise _problem(error) from None
    if received.new:
        request.app.state.pending.ring()
    else:
        response.status_code = HTTPStatus.OK
        response.headers["Idempotent-Replayed"] = "true"
    response.headers["Location"] = status_url(usable)
    return received


def _problem(error: NotReceivable) -> ProblemError:
    wrong = [Wrong(detail=what, pointer=pointer(*filter(None, [field]))) for field, what in error.problems]
    kind = error.code.replace("_", "-")
    match error:
        case ReferenceConflict():
            title = "Reference conflict"
        case NotPaidThisWay():
            title = "Not paid this way"
        case _:
            return invalid(wrong)
    return ProblemError(HTTPStatus.CONFLICT, str(error), kind=kind, title=title, errors=wrong)
