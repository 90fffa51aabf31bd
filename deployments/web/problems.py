"""Returns every error as problem details (RFC 9457, `application/problem+json`), without the request's
data and without internals."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import orjson
import psycopg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from saga.database import NotWritten, is_database_error, is_schema_mismatch
from shop.review.errors import AddressSettled, NotRetryable, OrderUnknown
from shop.runtime.extras import MissingExtra
from shop.values.messages import in_words

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_TYPES = "tag:order-saga.example,2026:"
_RETRY_SECONDS = "5"


class Wrong(BaseModel):
    """One problem of the request."""

    model_config = ConfigDict(frozen=True)

    detail: str
    pointer: str | None = Field(
        default=None,
        description="place in the body: a JSON Pointer as a URI fragment, such as `#/items/2/price`",
    )
    parameter: str | None = Field(default=None, description="name of the parameter or header")


class Problem(BaseModel):
    """Problem details, RFC 9457."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(
        default="about:blank", description="the kind of problem; `about:blank`: the status is enough"
    )
    title: str
    status: int
    detail: str | None = None
    errors: list[Wrong] | None = Field(default=None, description="all problems, with their places")


class ProblemError(Exception):
    """Ends a request with this problem. `kind`: the last part of its type, if the status is not enough."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        kind: str | None = None,
        title: str | None = None,
        errors: Sequence[Wrong] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.problem = Problem(
            type=_TYPES + kind if kind else "about:blank",
            title=title or status.phrase,
            status=int(status),
            detail=detail,
            errors=list(errors) or None,
        )
        self.headers = dict(headers or {})


def no_secret(how: str) -> ProblemError:
    """Returns the problem of a webhook without a secret; the sender repeats its message. `how` to set one."""
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"webhooks are not configured: {how}",
        kind="no-secret-set",
        title="No secret is set",
    )


def pointer(*path: str | int) -> str:
    """Returns a place in the body as a URI fragment, with special characters escaped."""
    parts = (str(each).replace("~", "~0").replace("/", "~1") for each in path)
    return "#" + "".join("/" + quote(part, safe="~!$&'()*+,;=:@", errors="replace") for part in parts)


def answers(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Describes problems with these statuses for OpenAPI."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {int(status): {"description": status.phrase, "content": content} for status in statuses}


_REFUSALS: tuple[tuple[type[Exception], HTTPStatus, str, str], ...] = (
    (OrderUnknown, HTTPStatus.NOT_FOUND, "no-such-order", "No such order"),
    (NotRetryable, HTTPStatus.CONFLICT, NotRetryable.code, "Not retryable"),
    (AddressSettled, HTTPStatus.CONFLICT, "address-settled", "The address is settled"),
    (MissingExtra, HTTPStatus.SERVICE_UNAVAILABLE, "missing-extra", "An extra is not installed"),
)
"""The problems of errors that mean the same in every request."""


def answer_problems(app: FastAPI) -> None:
    """Makes the app return every error as a problem. `app.state.routes` must be all routes."""
    for refusal, status, kind, title in _REFUSALS:
        app.add_exception_handler(refusal, partial(_refuse, status, kind, title))

    @app.exception_handler(ProblemError)
    async def problem(_: Request, error: ProblemError) -> Response:
        return respond(error.problem, error.headers)

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        headers = dict(error.headers or {})
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_methods(request))
        return respond(_plain(status), headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        wrong = [Wrong(detail=in_words(each), parameter=str(each["loc"][-1])) for each in error.errors()]
        status = HTTPStatus.UNPROCESSABLE_ENTITY
        return respond(_plain(status, errors=wrong))

    @app.exception_handler(SQLAlchemyError)
    @app.exception_handler(psycopg.Error)
    @app.exception_handler(NotWritten)
    @app.exception_handler(OSError)
    async def no_database(_: Request, error: Exception) -> Response:
        if not (is_database_error(error) or is_schema_mismatch(error)):
            log.error("a request failed unexpectedly", exc_info=error)
            return _broken()
        log.warning("a request failed because the database is unavailable (%s)", type(error).__name__)
        status = HTTPStatus.SERVICE_UNAVAILABLE
        detail = (
            "the database does not answer, so the result is unknown: "
            "send the same request again, which is safe"
        )
        return respond(_plain(status, detail=detail), {"Retry-After": _RETRY_SECONDS})

    @app.exception_handler(Exception)
    async def broken(_: Request, __: Exception) -> Response:
        return _broken()  # uvicorn logs it


async def _refuse(status: HTTPStatus, kind: str, title: str, _: Request, error: Exception) -> Response:
    # An id is the request's data, which is not returned.
    detail = "there is no order with this id" if isinstance(error, OrderUnknown) else str(error)
    return respond(ProblemError(status, detail, kind=kind, title=title).problem)


def respond(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Makes the response."""
    body = orjson.dumps(problem.model_dump(exclude_none=True))
    return Response(
        body, problem.status, headers={**(headers or {}), "Cache-Control": "no-store"}, media_type=MEDIA_TYPE
    )


def _plain(status: HTTPStatus, **more: Any) -> Problem:
    return Problem(title=status.phrase, status=int(status), **more)


def _broken() -> Response:
    detail = "internal error; the log of the web app has the details"
    return respond(_plain(HTTPStatus.INTERNAL_SERVER_ERROR, detail=detail))


def _methods(request: Request) -> list[str]:
    """Returns all methods of this path in all routes. A path that ends like a more specific one is described
    by that: `/orders/{order_id}` matches `/orders/A/retry`, too."""
    fitting = [
        route for route in request.app.state.routes if route.matches(request.scope)[0] is not Match.NONE
    ]
    found: set[str] = set()
    for route in fitting:
        if getattr(route, "path", None) == getattr(fitting[0], "path", None):
            found |= getattr(route, "methods", None) or set()
    return sorted(found)
