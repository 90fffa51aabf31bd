"""Tries orders again over HTTP. The web app stores the request; a worker takes the order to its outcome."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from deployments.web.keys import require_key
from deployments.web.order_parts import (
    BODY_PROBLEMS,
    PROBLEMS,
    PartRoute,
    Words,
    body_of,
    invalid,
    known_id,
    no_such_order,
    read_model,
)
from deployments.web.orders import DATABASE_SECONDS, status_url
from deployments.web.problems import ProblemError, Wrong, pointer
from saga.database import retry_while_database_down
from shop.review.errors import NotRetryable, OrderUnknown, RetryInvalid
from shop.review.retry import METHODS, NewMeans, RetryReceipt, retry

router = APIRouter(tags=["orders"], dependencies=[Depends(require_key)], route_class=PartRoute)


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
    requested_by: Words | None = Field(default=None, description="who asks for it; stored with the order")
    reason: Words | None = Field(default=None, description="why; stored with the order")


_RETRY: dict[str, Any] = {
    "status_code": HTTPStatus.ACCEPTED,
    "responses": {
        HTTPStatus.ACCEPTED: {"description": "The next try begins, or is under way"},
        **PROBLEMS,
        **BODY_PROBLEMS,
    },
    "openapi_extra": body_of(Retry, required=False),
}


@router.post("/orders/{order_id:path}/retry", **_RETRY)
async def retry_order(order_id: str, request: Request, response: Response) -> RetryReceipt:
    """Tries an order again that was rejected, out of stock or compensated. Asking again while the new try is
    under way changes nothing, and the answer says so."""
    return await _retry(order_id, request, response)


@router.post("/orders/retry", **_RETRY)
async def retry_by_query(
    order_id: Annotated[str, Query(alias="id")], request: Request, response: Response
) -> RetryReceipt:
    """Tries an order again, for ids that do not survive in a path, such as `..`."""
    return await _retry(order_id, request, response)


async def _retry(order_id: str, request: Request, response: Response) -> RetryReceipt:
    given = await read_model(request, Retry) if _has_body(request) else Retry()
    usable = known_id(order_id)
    means = NewMeans(given.token, given.method, given.card_last4)
    who = {"requested_by": given.requested_by, "reason": given.reason, "started_by": "the web app"}
    try:
        receipt = await retry_while_database_down(
            lambda: retry(usable, means, **who), seconds=DATABASE_SECONDS
        )
    except OrderUnknown:
        raise no_such_order() from None
    except NotRetryable as error:
        kind = NotRetryable.code
        raise ProblemError(HTTPStatus.CONFLICT, str(error), kind=kind, title="Not retryable") from None
    except RetryInvalid as error:
        problems = error.problems.items()
        raise invalid([Wrong(detail=why, pointer=pointer(name)) for name, why in problems]) from None
    request.app.state.pending.ring()
    response.headers["Location"], response.headers["Cache-Control"] = status_url(usable), "no-store"
    return receipt


def _has_body(request: Request) -> bool:
    length = request.headers.get("content-length", "0")
    return length != "0" or "transfer-encoding" in request.headers
