"""Addresses below an order's own, such as `/orders/{id}/cancel`.

An id is one percent-encoded segment of the path, whatever it contains. Starlette matches decoded paths, in
which the order `A/cancel` and the cancellation of order `A` look the same; so these routes look at the path
as it was sent.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, ValidationError
from starlette.routing import Match
from starlette.types import Scope

from deployments.web.bodies import read_json
from deployments.web.orders import NO_CONTROL
from deployments.web.problems import ProblemError, Wrong, answers, pointer
from shop.orders.errors import UnusableOrder
from shop.orders.intake_content import usable_id

Words = Annotated[str, Field(min_length=1, max_length=300, pattern=rf"[^\s{NO_CONTROL}]")]
"""Text that a person typed, with a visible character."""
M = TypeVar("M", bound=BaseModel)
PROBLEMS = answers(
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
BODY_PROBLEMS = answers(
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
)


class PartRoute(APIRoute):
    """Matches `/orders/{order_id:path}/part` only if the id is one segment of the path as it was sent."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        raw = scope.get("raw_path") or scope["path"].encode()
        if match is not Match.NONE and raw.partition(b"?")[0].count(b"/") != self.path.count("/"):
            return Match.NONE, {}
        return match, child


def known_id(order_id: str) -> str:
    """Returns the id as orders have it. Raises 404 if no order can have it."""
    try:
        return usable_id(order_id)
    except UnusableOrder:
        raise no_such_order() from None


def no_such_order() -> ProblemError:
    return ProblemError(
        HTTPStatus.NOT_FOUND, "there is no order with this id", kind="no-such-order", title="No such order"
    )


async def read_model(request: Request, model: type[M]) -> M:
    """Reads the body. Raises as `read_json` does, and 422 with every problem."""
    given = await read_json(request)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False)
    raise invalid([Wrong(detail=each["msg"], pointer=pointer(*each["loc"])) for each in problems])


def invalid(errors: list[Wrong]) -> ProblemError:
    detail = "nothing was changed: the body is not what this needs"
    return ProblemError(
        HTTPStatus.UNPROCESSABLE_ENTITY, detail, kind="invalid-body", title="Invalid body", errors=errors
    )


def body_of(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """Describes a body for OpenAPI, as `openapi_extra`."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}
