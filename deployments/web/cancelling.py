"""Cancels orders over HTTP. The web app stores the request; a worker cancels."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

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
from saga.cancelling import Asked
from saga.connections import answered_within
from saga.database import retry_while_database_down
from saga.definition import Saga
from shop.payments.gateways import gateway
from shop.review.cancel import ask_to_cancel
from shop.review.errors import OrderUnknown, ResolutionIncomplete
from shop.review.preview import CancelPreview, preview_cancel
from shop.runtime.extras import MissingExtra

router = APIRouter(tags=["orders"], dependencies=[Depends(require_key)], route_class=PartRoute)
_GATEWAY_SECONDS = 6.0
"""Limits the wait for the gateway, in seconds: then the preview's refund is the upper limit."""
_STATUSES: dict[Asked, Literal["accepted", "under_way", "ended"]] = {
    Asked.ASKED: "accepted",
    Asked.KNOWN: "under_way",
    Asked.ENDED: "ended",
}


class Cancel(BaseModel):
    """Why an order is cancelled, and who asks for it. Both are stored with the order; no card data."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    reason: Words = Field(examples=["changed their mind"])
    requested_by: Words = Field(examples=["ann"])


class CancelReceipt(BaseModel):
    """What became of the request."""

    model_config = ConfigDict(frozen=True)

    order_id: str
    status: Literal["accepted", "under_way", "ended"] = Field(
        description="`accepted`: a worker cancels or returns it; `under_way`: it is being compensated "
        "already; `ended`: it has ended with nothing to cancel"
    )
    status_url: str = Field(description="address of the order's status, as in the header Location")


@router.get("/orders/{order_id:path}/cancel", responses=PROBLEMS)
async def preview(order_id: str, response: Response) -> CancelPreview:
    """Returns what cancelling the order now would compensate and cost. Changes nothing."""
    usable = known_id(order_id)
    saga = await asyncio.to_thread(_saga)
    try:
        with answered_within(DATABASE_SECONDS + _GATEWAY_SECONDS):
            seen = await preview_cancel(usable, saga, gateway(), seconds=_GATEWAY_SECONDS)
    except OrderUnknown:
        raise no_such_order() from None
    except MissingExtra as error:
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error), kind="missing-extra") from None
    response.headers["Cache-Control"] = "no-store"
    return seen


_CANCEL: dict[str, Any] = {
    "status_code": HTTPStatus.ACCEPTED,
    "responses": {
        HTTPStatus.OK: {"model": CancelReceipt, "description": "The order has ended: nothing was changed"},
        HTTPStatus.ACCEPTED: {"model": CancelReceipt, "description": "The order is being cancelled"},
        **PROBLEMS,
        **BODY_PROBLEMS,
    },
    "openapi_extra": body_of(Cancel),
}


@router.post("/orders/{order_id:path}/cancel", **_CANCEL)
async def cancel(order_id: str, request: Request, response: Response) -> CancelReceipt:
    """Cancels the order, or returns it if it is shipped. Asking again changes nothing."""
    return await _cancel(order_id, request, response)


@router.post("/orders/cancel", **_CANCEL)
async def cancel_by_query(
    order_id: Annotated[str, Query(alias="id")], request: Request, response: Response
) -> CancelReceipt:
    """Cancels an order, for ids that do not survive in a path, such as `..`."""
    return await _cancel(order_id, request, response)


async def _cancel(order_id: str, request: Request, response: Response) -> CancelReceipt:
    given, usable = await read_model(request, Cancel), known_id(order_id)
    try:
        asked = await retry_while_database_down(
            lambda: ask_to_cancel(
                usable, reason=given.reason, requested_by=given.requested_by, started_by="the web app"
            ),
            seconds=DATABASE_SECONDS,
        )
    except OrderUnknown:
        raise no_such_order() from None
    except ResolutionIncomplete as error:
        raise invalid(
            [Wrong(detail=why, pointer=pointer(why.partition(" ")[0])) for why in error.problems]
        ) from None
    if asked is Asked.ENDED:
        response.status_code = HTTPStatus.OK
    else:
        request.app.state.pending.ring()
    url = status_url(usable)
    response.headers["Location"], response.headers["Cache-Control"] = url, "no-store"
    return CancelReceipt(order_id=usable, status=_STATUSES[asked], status_url=url)


def _saga() -> Saga:
    from flows.order_saga import ORDER_SAGA  # takes seconds to load, once

    return ORDER_SAGA
