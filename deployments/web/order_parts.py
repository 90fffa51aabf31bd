"""What is below an order's own address: `/orders/{id}/cancel`, `/retry` and `/shipping-address`. The web app
stores a request; a worker takes the order to its outcome.

An id is one percent-encoded segment of the path, whatever it contains. Starlette matches decoded paths, in
which the order `A/cancel` and the cancellation of order `A` look the same; so these routes look at the path
as it was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from starlette.routing import Match
from starlette.types import Scope

from deployments.web.orders import (
    BODY_PROBLEMS,
    DATABASE_SECONDS,
    ID_SCHEMA,
    NO_CONTROL,
    PROBLEMS,
    known_id,
    status_url,
    unexpected,
)
from deployments.web.problems import ProblemError, Wrong, pointer
from deployments.web.requests import read_json, require_key
from saga.cancelling import Asked
from saga.connections import answered_within
from saga.database import retry_while_database_down
from saga.definition import Saga
from shop.orders.parts import ShippingInfo
from shop.orders.rules import MAX_TEXT
from shop.payments.gateways import gateway
from shop.review.address import AddressReceipt, change_address
from shop.review.cancel import ask_to_cancel
from shop.review.errors import AddressInvalid, OrderHeld, ResolutionIncomplete, RetryInvalid
from shop.review.preview import CancelPreview, preview_cancel
from shop.review.retry import METHODS, NewMeans, RetryReceipt, retry
from shop.values import countries
from shop.values.messages import in_words

_HELD_SECONDS = 3.0
"""Limits the wait for a worker that holds the order, in seconds."""
_GATEWAY_SECONDS = 6.0
"""Limits the wait for the gateway, in seconds: then the preview's refund is the upper limit."""
_STATUSES: dict[Asked, Literal["accepted", "under_way", "ended"]] = {
    Asked.ASKED: "accepted",
    Asked.KNOWN: "under_way",
    Asked.ENDED: "ended",
}
Words = Annotated[str, Field(min_length=1, max_length=300, pattern=rf"[^\s{NO_CONTROL}]")]
"""Text that a person typed, with a visible character."""
M = TypeVar("M", bound=BaseModel)
Handler = Callable[[str, Request, Response], Awaitable[Any]]


class PartRoute(APIRoute):
    """Matches `/orders/{order_id:path}/part` only if the id is one segment of the path as it was sent."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        raw = scope.get("raw_path") or scope["path"].encode()
        if match is not Match.NONE and raw.partition(b"?")[0].count(b"/") != self.path.count("/"):
            return Match.NONE, {}
        return match, child


async def read_model(request: Request, model: type[M]) -> M:
    """Reads the body. Raises as `read_json` does, and 422 with every problem."""
    given = await read_json(request)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
    raise invalid([Wrong(detail=in_words(each), pointer=pointer(*each["loc"])) for each in problems])


def invalid(errors: list[Wrong]) -> ProblemError:
    detail = "nothing was changed: the body is not what this needs"
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY, detail, kind="invalid-body", title="Invalid body", errors=errors
    )


def body_of(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Describes a body for OpenAPI, as `openapi_extra`."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def post_part(
    router: APIRouter, part: str, name: str, what: str, **options: Any
) -> Callable[[Handler], Handler]:
    """Registers a handler of `POST /orders/{id}/part`, and of `POST /orders/part?id=` for ids that do not
    survive in a path, such as `..`. `name`, `what`: those of the second one, in the API's description."""

    def register(handle: Handler) -> Handler:
        async def by_query(
            order_id: Annotated[str, Query(alias="id")], request: Request, response: Response
        ) -> Any:
            return await handle(order_id, request, response)

        router.post(f"/orders/{{order_id:path}}/{part}", **options)(handle)
        router.post(
            f"/orders/{part}",
            name=name,
            description=f"{what}, for ids that do not survive in a path, such as `..`.",
            response_model=get_type_hints(handle)["return"],
            **options,
        )(by_query)
        return handle

    return register


router = APIRouter(tags=["orders"], dependencies=[Depends(require_key)], route_class=PartRoute)


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
async def preview(order_id: str) -> CancelPreview:
    """Returns what cancelling the order now would compensate and cost. Changes nothing."""
    usable = known_id(order_id)
    saga = await asyncio.to_thread(_saga)
    with answered_within(DATABASE_SECONDS + _GATEWAY_SECONDS):
        return await preview_cancel(usable, saga, gateway(), seconds=_GATEWAY_SECONDS)


@post_part(
    router,
    "cancel",
    "cancel_by_query",
    "Cancels an order",
    status_code=HTTPStatus.ACCEPTED,
    responses={
        HTTPStatus.OK: {"model": CancelReceipt, "description": "The order has ended: nothing was changed"},
        HTTPStatus.ACCEPTED: {"model": CancelReceipt, "description": "The order is being cancelled"},
        **PROBLEMS,
        **BODY_PROBLEMS,
    },
    openapi_extra=body_of(Cancel),
)
async def cancel(order_id: str, request: Request, response: Response) -> CancelReceipt:
    """Cancels the order, or returns it if it is shipped. Asking again changes nothing."""
    given, usable = await read_model(request, Cancel), known_id(order_id)
    try:
        asked = await retry_while_database_down(
            lambda: ask_to_cancel(
                usable, reason=given.reason, requested_by=given.requested_by, started_by="the web app"
            ),
            seconds=DATABASE_SECONDS,
        )
    except ResolutionIncomplete as error:
        raise invalid(
            [Wrong(detail=why, pointer=pointer(why.partition(" ")[0])) for why in error.problems]
        ) from None
    if asked is Asked.ENDED:
        response.status_code = HTTPStatus.OK
    else:
        request.app.state.pending.ring()
    url = status_url(usable)
    response.headers["Location"] = url
    return CancelReceipt(order_id=usable, status=_STATUSES[asked], status_url=url)


def _saga() -> Saga:
    from flows.order_saga import ORDER_SAGA  # takes seconds to load, once

    return ORDER_SAGA


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


@post_part(
    router,
    "retry",
    "retry_by_query",
    "Tries an order again",
    status_code=HTTPStatus.ACCEPTED,
    responses={
        HTTPStatus.ACCEPTED: {"description": "The next try begins, or is under way"},
        **PROBLEMS,
        **BODY_PROBLEMS,
    },
    openapi_extra=body_of(Retry, required=False),
)
async def retry_order(order_id: str, request: Request, response: Response) -> RetryReceipt:
    """Tries an order again that was rejected, out of stock or compensated. Asking again while the new try is
    under way changes nothing, and the answer says so."""
    given = await read_model(request, Retry) if _has_body(request) else Retry()
    usable = known_id(order_id)
    means = NewMeans(given.token, given.method, given.card_last4)
    who = {"requested_by": given.requested_by, "reason": given.reason, "started_by": "the web app"}
    try:
        receipt = await retry_while_database_down(
            lambda: retry(usable, means, **who), seconds=DATABASE_SECONDS
        )
    except RetryInvalid as error:
        problems = error.problems.items()
        raise invalid([Wrong(detail=why, pointer=pointer(name)) for name, why in problems]) from None
    request.app.state.pending.ring()
    response.headers["Location"] = status_url(usable)
    return receipt


def _has_body(request: Request) -> bool:
    length = request.headers.get("content-length", "0")
    return length != "0" or "transfer-encoding" in request.headers


class NewAddress(BaseModel):
    """The whole new address, and who changes it."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    shipping_info: dict[str, Any] = Field(description="as in an order: it replaces the former one")
    changed_by: Words = Field(description="stored with the order", examples=["ann"])
    reason: Words | None = Field(default=None, description="stored with the order; no card data")


_CONTROLS = r"\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f"
"""Characters that intake removes from texts."""


def _address_body() -> dict[str, Any]:
    """Describes the body with the rules of addresses, which the model leaves to validation."""
    body, address = body_of(NewAddress), ShippingInfo.model_json_schema()
    text = {"type": "string", "maxLength": MAX_TEXT, "pattern": rf"^[^{_CONTROLS}]*$"}
    address["properties"] = {name: {**text} for name in address["properties"]}
    for name in ("address", "city"):
        address["properties"][name]["pattern"] = ID_SCHEMA["pattern"]
    address["properties"]["country"] = {"enum": sorted(countries.codes())}
    schema = body["requestBody"]["content"]["application/json"]["schema"]
    schema["properties"]["shipping_info"] = {**address, "additionalProperties": False}
    return body


@router.put(
    "/orders/{order_id:path}/shipping-address",
    responses={**PROBLEMS, **BODY_PROBLEMS},
    openapi_extra=_address_body(),
)
async def put_address(order_id: str, request: Request) -> AddressReceipt:
    """Replaces the address of an order whose shipping has not begun. The same again changes nothing."""
    given, usable = await read_model(request, NewAddress), known_id(order_id)
    try:
        return await retry_while_database_down(
            lambda: change_address(
                usable,
                given.shipping_info,
                changed_by=given.changed_by,
                reason=given.reason,
                started_by="the web app",
                wait_seconds=_HELD_SECONDS,
            ),
            seconds=DATABASE_SECONDS,
        )
    except AddressInvalid as error:
        raise invalid(
            [unexpected(each, pointer(*each.place.split("."))) for each in error.problems]
        ) from None
    except OrderHeld as error:
        headers = {"Retry-After": "2"}
        raise ProblemError(
            HTTPStatus.CONFLICT, str(error), kind="order-held", title="A worker has it", headers=headers
        ) from None
