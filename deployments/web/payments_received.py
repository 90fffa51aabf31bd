"""Records over HTTP money that came for orders by transfer or on delivery."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from deployments.web.bodies import read_json
from deployments.web.keys import require_key
from deployments.web.order_parts import BODY_PROBLEMS, PROBLEMS, PartRoute, invalid, known_id, no_such_order
from deployments.web.orders import DATABASE_SECONDS, ID_SCHEMA, NO_CONTROL, status_url
from deployments.web.problems import ProblemError, Wrong, pointer
from saga.database import retry_while_database_down
from shop.payments.errors import NotPaidThisWay, NotReceivable, PayableOrderUnknown, ReferenceConflict
from shop.payments.recording import MoneyReceived, Received, read_incoming, record

router = APIRouter(tags=["orders"], dependencies=[Depends(require_key)], route_class=PartRoute)


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


_RECORD: dict[str, Any] = {
    "status_code": HTTPStatus.CREATED,
    "responses": {
        HTTPStatus.OK: {"model": Received, "description": "The same was recorded before"},
        HTTPStatus.CREATED: {"model": Received, "description": "The payment is recorded"},
        **PROBLEMS,
        **BODY_PROBLEMS,
    },
    "openapi_extra": {
        "requestBody": {"required": True, "content": {"application/json": {"schema": _schema()}}}
    },
}


@router.post("/orders/{order_id:path}/payments", **_RECORD)
async def record_payment(order_id: str, request: Request, response: Response) -> Received:
    """Records money that came for the order by transfer or on delivery. An order that waits for it goes on
    once all of it is recorded. Sending the same again changes nothing."""
    return await _record(order_id, request, response)


@router.post("/orders/payments", **_RECORD)
async def record_payment_by_query(
    order_id: Annotated[str, Query(alias="id")], request: Request, response: Response
) -> Received:
    """Records money that came for an order, for ids that do not survive in a path, such as `..`."""
    return await _record(order_id, request, response)


async def _record(order_id: str, request: Request, response: Response) -> Received:
    body, usable = await read_json(request), known_id(order_id)
    if isinstance(body, dict) and "order_id" in body:
        raise invalid([Wrong(detail="the address has the order's id", pointer=pointer("order_id"))])
    try:
        payment = read_incoming({**body, "order_id": usable} if isinstance(body, dict) else body)
        received = await retry_while_database_down(lambda: record(payment), seconds=DATABASE_SECONDS)
    except NotReceivable as error:
        raise _problem(error) from None
    if received.new:
        request.app.state.pending.ring()
    else:
        response.status_code = HTTPStatus.OK
        response.headers["Idempotent-Replayed"] = "true"
    response.headers["Location"], response.headers["Cache-Control"] = status_url(usable), "no-store"
    return received


def _problem(error: NotReceivable) -> ProblemError:
    wrong = [Wrong(detail=what, pointer=pointer(*filter(None, [field]))) for field, what in error.problems]
    kind = error.code.replace("_", "-")
    match error:
        case PayableOrderUnknown():
            return no_such_order()
        case ReferenceConflict():
            title = "Reference conflict"
        case NotPaidThisWay():
            title = "Not paid this way"
        case _:
            return invalid(wrong)
    return ProblemError(HTTPStatus.CONFLICT, str(error), kind=kind, title=title, errors=wrong)
