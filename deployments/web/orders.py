"""The intake over HTTP, the status of orders, and their list."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from deployments.web.problems import ProblemError, Wrong, answers, pointer
from deployments.web.requests import read_json, require_key
from saga.database import retry_while_database_down
from shop.orders.errors import OrderConflict, Problem, UnusableOrder
from shop.orders.intake import submit_one
from shop.orders.intake_content import take_in, usable_id
from shop.orders.names import MAX_ORDER_ID
from shop.orders.order import EXAMPLE
from shop.orders.outcomes import Outcome, Receipt
from shop.orders.report import OrderStatus, read_status
from shop.orders.search import CURSOR, MOST, ListedOrder, Status, Wanted, find_orders, words_of
from shop.review.errors import OrderUnknown

router = APIRouter(tags=["orders"], dependencies=[Depends(require_key)])
DATABASE_SECONDS = 8
"""Limits the wait for the database, in seconds: then the answer is 503."""
PROBLEMS = answers(
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
"""Problems of requests about one order."""
BODY_PROBLEMS = answers(
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
"""Problems of requests with a body."""
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


_IGNORED: list[str] = Field(
    default_factory=list, description="places of fields that an order does not have; they are not stored"
)


class Accepted(BaseModel):
    """The order is stored and reaches an outcome. Until then, submitting it again returns the same."""

    model_config = ConfigDict(frozen=True)

    order_id: str
    status: str = Field(default="accepted", pattern="^accepted$")
    ignored: list[str] = _IGNORED
    status_url: str = Field(description="address of its status, as in the header Location")


class Ended(BaseModel):
    """The same order was submitted before and has ended. Nothing is repeated."""

    model_config = ConfigDict(frozen=True)

    order_id: str
    status: str = Field(default="known", pattern="^known$")
    outcome: Outcome
    reasons: list[str] = Field(description="why it did not complete, one entry per problem; empty if it did")
    ignored: list[str] = _IGNORED
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
        **BODY_PROBLEMS,
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
    response.headers["Location"] = url
    if receipt.status == "known":
        response.headers["Idempotent-Replayed"] = "true"
    if receipt.outcome is not None:
        response.status_code = HTTPStatus.OK
        return Ended(
            order_id=order_id,
            outcome=receipt.outcome,
            reasons=receipt.reasons,
            ignored=receipt.ignored,
            how_to_retry=receipt.how_to_retry,
            status_url=url,
        )
    return Accepted(order_id=order_id, ignored=receipt.ignored, status_url=url)


@router.get("/orders/{order_id:path}", responses=PROBLEMS)
async def order_status(order_id: str) -> OrderStatus:
    """Returns an order's status. The id is one percent-encoded segment of the path, whatever it contains."""
    return await answer_status(order_id)


async def answer_status(order_id: str) -> OrderStatus:
    """Returns the order's status. Raises `OrderUnknown`."""
    usable = known_id(order_id)
    known = await retry_while_database_down(lambda: read_status(usable), seconds=DATABASE_SECONDS)
    if known is None:
        raise OrderUnknown(usable)
    return known


def known_id(order_id: str) -> str:
    """Returns the id as orders have it. Raises `OrderUnknown` if no order can have it."""
    try:
        return usable_id(order_id)
    except UnusableOrder:
        raise OrderUnknown(order_id) from None


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
        return [unexpected(each, at) for each, at in zip(error.problems, places, strict=True)]
    return []


def unexpected(problem: Problem, place: str) -> Wrong:
    """Describes a problem of an order's content."""
    return Wrong(detail=f"got {problem.given}, expected {problem.expected}", pointer=place)


def _unusable(errors: list[Wrong]) -> ProblemError:
    detail = "the order was not stored, because it has no usable id: give it one"
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY, detail, kind="unusable-order", title="Unusable order", errors=errors
    )


class OrderList(BaseModel):
    """One page of orders, the newest first."""

    model_config = ConfigDict(frozen=True)

    orders: list[ListedOrder]
    next: str | None = Field(default=None, description="address of the next page; null: this is the last one")


def _text(description: str) -> object:
    return Query(min_length=1, max_length=320, description=description)


def _not_a_number(value: object) -> object:
    """Refuses seconds since 1970, which pydantic would accept."""
    if isinstance(value, str) and not _YEAR.match(value):
        raise ValueError("a date, or a date and a time, as in ISO 8601")
    return value


_YEAR = re.compile(r"\d{4}-")
Time = Annotated[
    datetime,
    BeforeValidator(_not_a_number),
    WithJsonSchema({"type": "string", "anyOf": [{"format": "date-time"}, {"format": "date"}]}),
]


async def _wanted(
    *,
    status: Annotated[Status | None, Query(description="where they stand; `open`: no outcome yet")] = None,
    outcome: Outcome | None = None,
    customer: Annotated[str | None, _text("the customer's id, exactly")] = None,
    email: Annotated[str | None, _text("the customer's e-mail address, in any case")] = None,
    since: Annotated[Time | None, Query(description="submitted then or later; UTC without a zone")] = None,
    until: Annotated[Time | None, Query(description="submitted before; UTC without a zone")] = None,
) -> Wanted:
    return Wanted(
        status=status, outcome=outcome, customer=customer, email=email, since=_utc(since), until=_utc(until)
    )


_PARAMETERS = frozenset({"id", "cursor", "limit", *Wanted.__dataclass_fields__})


@router.get("/orders", responses=PROBLEMS, response_model=OrderList | OrderStatus)
async def list_orders(
    request: Request,
    response: Response,
    wanted: Annotated[Wanted, Depends(_wanted)],
    *,
    order_id: Annotated[
        str | None, Query(alias="id", description="returns this order's status instead of a list")
    ] = None,
    cursor: Annotated[str | None, Query(pattern=CURSOR, description="as in the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 50,
) -> OrderList | OrderStatus:
    """Returns the orders that all filters match, the newest first, page by page; with `id`, one order's
    status, for ids that do not survive in a path, such as `..`. Orders whose customer's data is erased are
    found by no customer or e-mail address."""
    # Without the filter of a misspelt parameter the answer would be wrong.
    if unknown := sorted(set(request.query_params) - _PARAMETERS):
        known = f"unknown; known are {', '.join(sorted(_PARAMETERS))}"
        raise _unusable_query([Wrong(detail=known, parameter=name[:100]) for name in unknown[:20]])
    if order_id is not None:
        return await answer_status(order_id)
    page = await retry_while_database_down(
        lambda: find_orders(wanted, limit=limit, cursor=cursor), seconds=DATABASE_SECONDS
    )
    following = None
    if page.cursor is not None:
        query = [*words_of(wanted), ("limit", str(limit)), ("cursor", page.cursor)]
        following = f"/orders?{urlencode(query)}"
        response.headers["Link"] = f'<{following}>; rel="next"'
    return OrderList(orders=page.orders, next=following)


def _unusable_query(errors: list[Wrong]) -> ProblemError:
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "the query cannot be used", errors=errors)


def _utc(time: datetime | None) -> datetime | None:
    return time if time is None or time.tzinfo is not None else time.replace(tzinfo=UTC)
