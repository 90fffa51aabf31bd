"""Lists and searches orders over HTTP."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from deployments.web.keys import require_key
from deployments.web.orders import DATABASE_SECONDS, PROBLEMS, answer_status
from deployments.web.problems import ProblemError, Wrong
from saga.database import retry_while_database_down
from shop.orders.outcomes import Outcome
from shop.orders.search import CURSOR, MOST, ListedOrder, Status, Wanted, find_orders, words_of
from shop.orders.status import OrderStatus

router = APIRouter(tags=["orders"], dependencies=[Depends(require_key)])


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
        raise _unusable([Wrong(detail=known, parameter=name[:100]) for name in unknown[:20]])
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


def _unusable(errors: list[Wrong]) -> ProblemError:
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, "the query cannot be used", errors=errors)


def _utc(time: datetime | None) -> datetime | None:
    return time if time is None or time.tzinfo is not None else time.replace(tzinfo=UTC)
