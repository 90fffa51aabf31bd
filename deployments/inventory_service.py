"""`order-saga inventory-service`: serves the SQL inventory over HTTP, for shops with `INVENTORY_SERVICE_URL`.

On a database of its own, or on a shop's: `--database-url`, else `DATABASE_URL`. `INVENTORY_SERVICE_TOKEN`, if it is set, is asked for;
without it the service answers on this machine only. What ran out is given back here, every few seconds. The API is at
`/openapi.json`; what it promises is in `shop.inventory.port`. Any number may serve the same database.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from saga.asyncio_tasks import cancel_and_wait
from saga.database import is_database_error, is_schema_mismatch
from saga.errors import StepError
from shop.inventory.embedded import EmbeddedInventory
from shop.inventory.errors import InventoryRefused, OutOfStock, ReservationLost
from shop.inventory.ledger import Holding, ProductStock
from shop.inventory.port import Reservation
from shop.inventory.service.wire import PROBLEM_JSON, AboutOrder, Installation, Keep, OrderId, Problem, ProblemDetails, Reserve, ShortItem
from shop.monitoring.exposition.endpoint import PATH, Exposition
from shop.runtime.http_server import BoundedBodies

log = logging.getLogger("shop.inventory_service")
EXPIRY_SECONDS = 5.0
_MOST_BYTES = 4_000_000
_AWAY_SECONDS = 2
_TITLES = {
    Problem.OUT_OF_STOCK: (HTTPStatus.CONFLICT, "Not all of the items are in stock"),
    Problem.LOST: (HTTPStatus.CONFLICT, "Nothing is held for the order"),
    Problem.NO_RESERVATION: (HTTPStatus.NOT_FOUND, "Nothing is known of the order"),
    Problem.REFUSED: (HTTPStatus.CONFLICT, "The request contradicts what is there"),
    Problem.INVALID: (HTTPStatus.UNPROCESSABLE_ENTITY, "The request makes no sense"),
    Problem.UNAUTHORIZED: (HTTPStatus.UNAUTHORIZED, "The token is missing or wrong"),
    Problem.NOT_FOUND: (HTTPStatus.NOT_FOUND, "There is no such path"),
    Problem.UNAVAILABLE: (HTTPStatus.SERVICE_UNAVAILABLE, "The database is away"),
}
_CAN_HAPPEN: dict[int | str, dict[str, Any]] = {
    code: {"model": ProblemDetails, "content": {PROBLEM_JSON: {}}, "description": what}
    for code, what in (
        (401, "The token is missing or wrong"),
        (404, "Nothing is known of the order"),
        (409, "Out of stock, lost, or refused: see `type`"),
        (422, "The request makes no sense"),
        (503, "The database is away; `Retry-After` says for how long to wait"),
    )
}


def create_app(
    inventory: EmbeddedInventory, token: str | None = None, *, expiry_seconds: float = EXPIRY_SECONDS, metrics: Exposition | None = None
) -> FastAPI:
    """The service on that inventory, which it closes at its end. `token`: what callers have to bring."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        expiring = asyncio.create_task(_keep_expiring(inventory, expiry_seconds), name="expire-reservations")
        try:
            yield
        finally:
            await cancel_and_wait([expiring])
            await inventory.aclose()

    # No pages: FastAPI's load scripts from elsewhere.
    app = FastAPI(title="Inventory", version="1", description=_DESCRIPTION, lifespan=life, docs_url=None, redoc_url=None)
    app.add_middleware(BoundedBodies, most_bytes=_MOST_BYTES)
    _tell_problems(app)
    app.include_router(_orders(inventory, _guarded(token)), dependencies=[Depends(_BEARER)], responses=_CAN_HAPPEN)

    @app.get("/health", tags=["health"])
    async def health() -> dict[str, str]:
        """Whether it can do its work: asks the database."""
        await inventory.get("health")
        return {"status": "ok"}

    if metrics is not None:

        @app.get(PATH, include_in_schema=False)
        def read_metrics(request: Request) -> Response:
            """For Prometheus."""
            if not metrics.allows(request.headers.get("Authorization")):
                raise _NotAllowed
            body, content_type = metrics.answer(request.headers.get("Accept"))
            return Response(body, media_type=content_type)

    return app


_DESCRIPTION = (
    "Every operation is named by the order's id and may be repeated: it finds what the first one did. After `release` or `put-back` "
    "the order is over, and a request that arrives late reserves and ships nothing. An order's id has the shop's installation id "
    "before it, so that several shops may use one service."
)


def _orders(inventory: EmbeddedInventory, route: type[APIRoute]) -> APIRouter:
    api = APIRouter(prefix="/v1", tags=["inventory"], route_class=route)

    @api.post("/reservations")
    async def reserve(asked: Reserve) -> Reservation:
        """Holds all the items or none."""
        return await inventory.reserve(asked.order_id, asked.items, seconds=asked.seconds)

    @api.get("/reservations")
    async def get(order_id: Annotated[OrderId, Query()]) -> Reservation:
        """What is known of the order."""
        return _found(await inventory.get(order_id), order_id)

    @api.post("/reservations/keep")
    async def keep(asked: Keep) -> Reservation:
        """What is held does not run out for so long."""
        return _found(await inventory.keep(asked.order_id, seconds=asked.seconds), asked.order_id)

    @api.post("/reservations/release")
    async def release(asked: AboutOrder) -> Reservation:
        """The order is over: what it holds is given back. What is shipped stays so."""
        return await inventory.release(asked.order_id)

    @api.post("/reservations/commit")
    async def commit(asked: AboutOrder) -> Reservation:
        """What is held leaves the shelf."""
        return await inventory.commit(asked.order_id)

    @api.post("/reservations/put-back")
    async def put_back(asked: AboutOrder) -> Reservation:
        """The order is over: what was shipped, or is held, is for sale again."""
        return await inventory.put_back(asked.order_id)

    @api.get("/stock")
    async def stock() -> list[ProductStock]:
        """Every product, and what its movements add up to, at one moment."""
        return await inventory.stock()

    @api.get("/shipped")
    async def shipped(installation: Annotated[Installation | None, Query()] = None) -> dict[str, int]:
        """Pieces per product that were shipped for one shop's orders and not put back; without `installation`, for orders whose ids have
        none in them."""
        return await inventory.shipped(installation)

    @api.get("/holdings")
    async def holdings() -> list[Holding]:
        """Who holds what."""
        return await inventory.holdings()

    return api


class _NothingKnown(Exception):
    """Of this order."""


def _found(reservation: Reservation | None, order_id: str) -> Reservation:
    if reservation is None:
        raise _NothingKnown(order_id)
    return reservation


class _NotAllowed(Exception):
    """The token is missing or wrong."""


_BEARER = HTTPBearer(auto_error=False)


def _guarded(token: str | None) -> type[APIRoute]:
    """Routes that read nothing of a request without the token. A dependency would be asked after the body was read."""

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                given = await _BEARER(request)
                # In constant time: how long a comparison takes must not tell how much of a guess is right.
                if token is not None and not (given and hmac.compare_digest(given.credentials.encode(), token.encode())):
                    raise _NotAllowed
                return await handle(request)

            return guarded

    return Guarded


def _tell_problems(app: FastAPI) -> None:
    @app.exception_handler(StepError)
    async def no(_: Request, error: StepError) -> Response:
        match error:
            case OutOfStock():
                short = [ShortItem(product_id=s.product_id, requested=s.requested, available=s.available) for s in error.shortages]
                return _problem(Problem.OUT_OF_STOCK, str(error), short)
            case ReservationLost():
                return _problem(Problem.LOST, str(error))
            case InventoryRefused():
                return _problem(Problem.REFUSED, str(error))
        raise error

    @app.exception_handler(_NothingKnown)
    async def nothing(_: Request, __: _NothingKnown) -> Response:
        return _problem(Problem.NO_RESERVATION)

    @app.exception_handler(_NotAllowed)
    async def not_allowed(_: Request, __: _NotAllowed) -> Response:
        response = _problem(Problem.UNAUTHORIZED)
        response.headers["WWW-Authenticate"] = "Bearer"
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        # Only where and what: what was sent is not repeated.
        wrong = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        return _problem(Problem.INVALID, wrong.encode("ascii", "replace").decode()[:1000])

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        if error.status_code in {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT}:
            detail = f"a body has at most {_MOST_BYTES} bytes, and comes within 20 s"
            response = _problem(Problem.INVALID, detail, status=error.status_code)
        else:
            response = _problem(Problem.NOT_FOUND, status=error.status_code)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(SQLAlchemyError)
    async def database(_: Request, error: SQLAlchemyError) -> Response:
        if not (is_database_error(error) or is_schema_mismatch(error)):
            raise error
        log.warning("the database is away (%s)", type(error).__name__)
        response = _problem(Problem.UNAVAILABLE)
        response.headers["Retry-After"] = str(_AWAY_SECONDS)
        return response


def _problem(kind: Problem, detail: str = "", shortages: list[ShortItem] | None = None, *, status: int | None = None) -> Response:
    usual, title = _TITLES[kind]
    told = ProblemDetails(type=kind, title=title, status=status or usual, detail=detail, shortages=shortages or [])
    return Response(told.model_dump_json(), status_code=told.status, media_type=PROBLEM_JSON)


async def _keep_expiring(inventory: EmbeddedInventory, seconds: float) -> None:
    while True:
        try:
            if expired := await inventory.expire():
                log.info("%d reservations ran out", len(expired))
                continue
        except Exception as error:
            if not is_database_error(error):
                log.exception("reservations could not be let run out")
        await asyncio.sleep(seconds)
