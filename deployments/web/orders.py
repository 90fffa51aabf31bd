"""The intake over HTTP, and the status of orders."""

from __future__ import annotations

from decimal import Decimal
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from deployments.web.bodies import read_json
from deployments.web.keys import require_key
from deployments.web.problems import ProblemError, Wrong, answers, pointer
from saga.database import retry_while_database_down
from shop.orders.errors import OrderConflict, UnusableOrder
from shop.orders.intake import submit_one
from shop.orders.intake_content import take_in, usable_id
from shop.orders.names import MAX_ORDER_ID
from shop.orders.order import EXAMPLE
from shop.orders.outcomes import Outcome, Receipt
from shop.orders.payment_methods import METHODS
from shop.orders.status import OrderStatus, read_status
from shop.review.errors import NotRetryable, OrderUnknown, RetryInvalid
from shop.review.retry import NewMeans, RetryReceipt, retry

router = APIRouter(tags=["orders"], dependencies=[Depends(require_key)])
DATABASE_SECONDS = 8
"""Limits the wait for the database, in seconds: then the answer is 503."""
_KEY = (HTTPStatus.UNAUTHORIZED, HTTPStatus.SERVICE_UNAVAILABLE)
NO_CONTROL = (
    r"\u0000-\u001f\u007f-\u00a0\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f"
    r"\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
)
"""Excludes invisible characters of the Basic Multilingual Plane: JSON Schema patterns support no others."""
ID_SCHEMA: dict[str, Any] = {
    "type": "string",
    "maxLength": MAX_ORDER_ID,
    "pattern": rf"^[^{NO_CONTROL}]*[^\s{NO_CONTROL}][^{NO_CONTROL}]*$",
    "description": "Chosen by you; identifies the order permanently. Text in Unicode's composed form (NFC), "
    "without invisible characters.",
}
_ORDER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["id"],
    "properties": {"id": ID_SCHEMA},
    "examples": [EXAMPLE],
}
_BODY = {
    "requestBody": {
        "required": True,
        "description": (
            "One order, as `shop.orders.order.Order` defines it. "
            "An invalid order with an id is stored and ends as `rejected`, with all reasons."
        ),
        "content": {"application/json": {"schema": _ORDER_SCHEMA}},
    }
}
_HEADERS = {
    "Location": {"description": "address of the order's status", "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "`true`: the same order was submitted before",
        "schema": {"type": "string"},
    },
}


class Accepted(BaseModel):
    """The order is stored and reaches an outcome. Until then, submitting it again returns the same."""

    model_config = ConfigDict(frozen=True)

    order_id: str
    status: str = Field(default="accepted", pattern="^accepted$")
    status_url: str = Field(description="address of its status, as in the header Location")


class Ended(BaseModel):
    """The same order was submitted before and has ended. Nothing is repeated."""

    model_config = ConfigDict(frozen=True)

    order_id: str
    status: str = Field(default="known", pattern="^known$")
    outcome: Outcome
    reasons: list[str] = Field(description="why it did not complete, one entry per problem; empty if it did")
    how_to_retry: str | None = Field(
        default=None, description="if it ended uncompleted and can be tried again: how"
    )
    status_url: str = Field(description="address of its status, as in the header Location")


@router.post(
    "/orders",
    status_code=HTTPStatus.ACCEPTED,
    response_model=Accepted | Ended,
    responses={
        HTTPStatus.OK: {
            "model": Ended,
            "description": "The same order was submitted before and has ended",
            "headers": _HEADERS,
        },
        HTTPStatus.ACCEPTED: {"model": Accepted, "description": "The order is stored", "headers": _HEADERS},
        **answers(
            *_KEY,
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.CONFLICT,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
        ),
    },
    openapi_extra=_BODY,
)
async def send_order(request: Request, response: Response) -> Accepted | Ended:
    """Accepts one order. Submitting it again is safe: its id identifies it. An order that has ended, such
    as a rejected one, is not retried: the answer has its outcome, and says how to retry it."""
    order = await read_json(request)
    _require_text_id(order)
    receipt = await retry_while_database_down(lambda: submit_one(order), seconds=DATABASE_SECONDS)
    order_id = _taken(receipt, order)
    request.app.state.pending.ring()
    url = status_url(order_id)
    response.headers["Location"], response.headers["Cache-Control"] = url, "no-store"
    if receipt.status == "known":
        response.headers["Idempotent-Replayed"] = "true"
    if receipt.outcome is not None:
        response.status_code = HTTPStatus.OK
        return Ended(
            order_id=order_id,
            outcome=receipt.outcome,
            reasons=receipt.reasons,
            how_to_retry=receipt.how_to_retry,
            status_url=url,
        )
    return Accepted(order_id=order_id, status_url=url)


class Retry(BaseModel):
    """What the next try uses, and who asked for it. Everything is optional. If one of `token`, `method` and
    `card_last4` is given, they replace the order's means of payment."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    token: str | None = Field(
        default=None,
        max_length=255,
        pattern=r"^[!-~]*[A-Za-z][!-~]*$",
        description="the gateway's token of another card",
    )
    method: Annotated[str, WithJsonSchema({"enum": list(METHODS)})] | None = Field(
        default=None, description="of the payment; default: the order's"
    )
    card_last4: str | None = Field(
        default=None, pattern=r"^[0-9]{4}$", description="the card's last four digits, never more"
    )
    requested_by: str | None = Field(
        default=None, max_length=300, description="who asks for it; stored with the order"
    )
    reason: str | None = Field(default=None, max_length=300, description="why; stored with the order")


_RETRY: dict[str, Any] = {
    "status_code": HTTPStatus.ACCEPTED,
    "responses": {
        HTTPStatus.ACCEPTED: {
            "description": "The next try begins, or is under way",
            "headers": {"Location": _HEADERS["Location"]},
        },
        **answers(
            *_KEY,
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.NOT_FOUND,
            HTTPStatus.REQUEST_TIMEOUT,
            HTTPStatus.CONFLICT,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
        ),
    },
    "openapi_extra": {
        "requestBody": {"content": {"application/json": {"schema": Retry.model_json_schema()}}}
    },
}


@router.post("/orders/{order_id:path}/retry", **_RETRY)
async def retry_order(order_id: str, request: Request, response: Response) -> RetryReceipt:
    """Tries an order again that was rejected, out of stock or compensated. The body is optional. Asking again
    while the new try is under way changes nothing, and the answer says so. The id is one percent-encoded
    segment of the path, whatever it contains."""
    return await _retry(order_id, request, response)


@router.post("/orders/retry", **_RETRY)
async def retry_order_by_query(
    order_id: Annotated[str, Query(alias="id")], request: Request, response: Response
) -> RetryReceipt:
    """Tries an order again, for ids that do not survive in a path, such as `..`."""
    return await _retry(order_id, request, response)


async def _retry(order_id: str, request: Request, response: Response) -> RetryReceipt:
    given = await _read_retry(request)
    try:
        usable = usable_id(order_id)
        receipt = await retry_while_database_down(
            lambda: retry(
                usable,
                NewMeans(given.token, given.method, given.card_last4),
                requested_by=given.requested_by,
                reason=given.reason,
                started_by="the web app",
            ),
            seconds=DATABASE_SECONDS,
        )
    except (UnusableOrder, OrderUnknown):
        raise _no_such_order() from None
    except NotRetryable as error:
        raise ProblemError(
            HTTPStatus.CONFLICT, str(error), kind=NotRetryable.code, title="Not retryable"
        ) from None
    except RetryInvalid as error:
        errors = [Wrong(detail=why, pointer=pointer(name)) for name, why in error.problems.items()]
        raise _invalid_retry(errors) from None
    request.app.state.pending.ring()
    response.headers["Location"], response.headers["Cache-Control"] = status_url(usable), "no-store"
    return receipt


async def _read_retry(request: Request) -> Retry:
    """Reads the optional body. Raises as `read_json` does, and 422 for fields that are not known."""
    if request.headers.get("content-length", "") == "0" or not {
        "content-length",
        "transfer-encoding",
    } & set(request.headers.keys()):
        return Retry()
    try:
        return Retry.model_validate(await read_json(request))
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
        raise _invalid_retry(
            [Wrong(detail=each["msg"], pointer=pointer(*each["loc"])) for each in problems]
        ) from None


def _invalid_retry(errors: list[Wrong]) -> ProblemError:
    detail = "nothing was changed: the body is not what a retry needs"
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY, detail, kind=RetryInvalid.code, title="Invalid retry", errors=errors
    )


STATUS_PROBLEMS = answers(*_KEY, HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY)


@router.get("/orders/{order_id:path}", responses=STATUS_PROBLEMS)
async def order_status(order_id: str, response: Response) -> OrderStatus:
    """Returns an order's status. The id is one percent-encoded segment of the path, whatever it contains."""
    return await answer_status(order_id, response)


async def answer_status(order_id: str, response: Response) -> OrderStatus:
    """Returns the order's status. Raises 404."""
    try:
        usable = usable_id(order_id)
    except UnusableOrder:  # no order can have it
        known = None
    else:
        known = await retry_while_database_down(lambda: read_status(usable), seconds=DATABASE_SECONDS)
    if known is None:
        raise _no_such_order()
    response.headers["Cache-Control"] = "no-store"
    return known


def _no_such_order() -> ProblemError:
    detail = "there is no order with this id"
    return ProblemError(HTTPStatus.NOT_FOUND, detail, kind="no-such-order", title="No such order")


def status_url(order_id: str) -> str:
    """Returns the address of the order's status, relative to this server."""
    if order_id in {".", ".."}:  # clients remove them from paths, even if encoded
        return f"/orders?id={quote(order_id, safe='')}"
    return f"/orders/{quote(order_id, safe='')}"


def _require_text_id(order: Any) -> None:
    """Requires text as id: in JSON 4711 and 4711.0 are the same number, but an id must have one spelling
    for later requests."""
    if isinstance(order, dict) and isinstance(order.get("id"), int | Decimal):
        raise _unusable([Wrong(detail="got a number, expected text", pointer=pointer("id"))])


def _taken(receipt: Receipt, order: Any) -> str:
    """Returns the order's id. Raises 422 and 409."""
    if receipt.order_id is None:
        raise _unusable(_wrong(order))
    if receipt.status == "refused":
        errors = [Wrong(detail=reason, pointer=pointer("id")) for reason in receipt.reasons]
        detail = "this id belongs to an order with different content: give the new order another id"
        raise ProblemError(
            HTTPStatus.CONFLICT, detail, kind=OrderConflict.code, title="Order conflict", errors=errors
        )
    return receipt.order_id


def _wrong(order: Any) -> list[Wrong]:
    """Returns why the order has no usable id."""
    try:
        take_in(order)
    except UnusableOrder as error:
        places = [pointer() if each.place == "order" else pointer(each.place) for each in error.problems]
        return [
            Wrong(detail=f"got {each.given}, expected {each.expected}", pointer=at)
            for each, at in zip(error.problems, places, strict=True)
        ]
    return []


def _unusable(errors: list[Wrong]) -> ProblemError:
    detail = "the order was not stored, because it has no usable id: give it one"
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY, detail, kind="unusable-order", title="Unusable order", errors=errors
    )
