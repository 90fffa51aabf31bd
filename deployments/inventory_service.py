"""Serves the SQL inventory over HTTP (`order-saga inventory-service`), for shops with
`INVENTORY_SERVICE_URL`.

It uses its own database or a shop's: `--database-url`, else `DATABASE_URL`. It requires
`INVENTORY_SERVICE_TOKEN` if that is set; otherwise it listens on this machine only. It releases expired
reservations every few seconds. The API is at `/openapi.json`, its contract in
`shop.inventory.service.contract`. Any number of processes may serve the same database.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
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
from shop.inventory.deliveries import DeliveryReceipt
from shop.inventory.errors import (
    DeliveryConflict,
    InventoryRefused,
    OutOfStock,
    ReservationLost,
    UnknownProducts,
)
from shop.inventory.ledger import Holding, ProductStock
from shop.inventory.service.contract import Reservation
from shop.inventory.service.database import DatabaseInventory
from shop.inventory.service.wire import (
    PROBLEM_JSON,
    AboutOrder,
    Installation,
    Keep,
    OrderId,
    Problem,
    ProblemDetails,
    Receive,
    Reserve,
    ShortItem,
)
from shop.monitoring.exposition.endpoint import PATH, Exposition
from shop.runtime.http_server import BoundedBodies

log = logging.getLogger("shop.inventory_service")
EXPIRY_SECONDS = 5.0
"""Interval at which expired reservations are released."""
_MOST_BYTES = 4_000_000
"""Limits the body of a request, in bytes."""
_RETRY_AFTER_SECONDS = 2
"""The `Retry-After` of answers without a database, in seconds."""
_TITLES = {
    Problem.OUT_OF_STOCK: (HTTPStatus.CONFLICT, "Not all of the items are in stock"),
    Problem.LOST: (HTTPStatus.CONFLICT, "Nothing is held for the order"),
    Problem.UNKNOWN_PRODUCT: (HTTPStatus.NOT_FOUND, "There is no such product"),
    Problem.DELIVERY_CONFLICT: (HTTPStatus.CONFLICT, "Other goods were received under this reference"),
    Problem.NO_RESERVATION: (HTTPStatus.NOT_FOUND, "The order is unknown"),
    Problem.REFUSED: (HTTPStatus.CONFLICT, "The request contradicts the stored state"),
    Problem.INVALID: (HTTPStatus.UNPROCESSABLE_ENTITY, "The request is invalid"),
    Problem.UNAUTHORIZED: (HTTPStatus.UNAUTHORIZED, "The token is missing or wrong"),
    Problem.NOT_FOUND: (HTTPStatus.NOT_FOUND, "There is no such path"),
    Problem.UNAVAILABLE: (HTTPStatus.SERVICE_UNAVAILABLE, "The database is unavailable"),
}
_CAN_HAPPEN: dict[int | str, dict[str, Any]] = {
    code: {"model": ProblemDetails, "content": {PROBLEM_JSON: {}}, "description": what}
    for code, what in (
        (401, "The token is missing or wrong"),
        (404, "The order is unknown"),
        (409, "Out of stock, lost, or refused: see `type`"),
        (422, "The request is invalid"),
        (503, "The database is unavailable; `Retry-After` is the wait in seconds"),
    )
}


def create_app(
    inventory: DatabaseInventory,
    token: str | None = None,
    *,
    expiry_seconds: float = EXPIRY_SECONDS,
    metrics: Exposition | None = None,
) -> FastAPI:
    """Creates the service's app, which closes the inventory at shutdown. `token`: the bearer token that
    callers must send."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        expiring = asyncio.create_task(_keep_expiring(inventory, expiry_seconds), name="expire-reservations")
        try:
            yield
        finally:
            await cancel_and_wait([expiring])
            await inventory.aclose()

    # Without documentation pages: FastAPI's load scripts from third parties.
    app = FastAPI(
        title="Inventory", version="1", description=_DESCRIPTION, lifespan=life, docs_url=None, redoc_url=None
    )
    app.add_middleware(BoundedBodies, most_bytes=_MOST_BYTES)
    _answer_problems(app)
    app.include_router(
        _orders(inventory, _guarded(token)), dependencies=[Depends(_BEARER)], responses=_CAN_HAPPEN
    )

    @app.get("/health", tags=["health"])
    async def health() -> dict[str, str]:
        """Reports whether the service can work: queries the database."""
        await inventory.get("health")
        return {"status": "ok"}

    if metrics is not None:

        @app.get(PATH, include_in_schema=False)
        def read_metrics(request: Request) -> Response:
            """Metrics for Prometheus."""
            if not metrics.allows(request.headers.get("Authorization")):
                raise _Refused(Problem.UNAUTHORIZED)
            body, content_type = metrics.answer(request.headers.get("Accept"))
            return Response(body, media_type=content_type)

    return app


_DESCRIPTION = (
    "Every operation is identified by the order's id and may be repeated: it finds the first one's result. "
    "After `release` or `put-back` the order is closed, and a late request reserves and ships nothing. "
    "An order's id has the shop's installation id as prefix, so that several shops may use one service."
)


def _orders(inventory: DatabaseInventory, route: type[APIRoute]) -> APIRouter:
    api = APIRouter(prefix="/v1", tags=["inventory"], route_class=route)

    @api.post("/reservations")
    async def reserve(asked: Reserve) -> Reservation:
        """Reserves all the items or none."""
        return await inventory.reserve(asked.order_id, asked.items, seconds=asked.seconds)

    @api.get("/reservations")
    async def get(order_id: Annotated[OrderId, Query()]) -> Reservation:
        """Returns the order's reservation."""
        return _found(await inventory.get(order_id))

    @api.post("/reservations/keep")
    async def keep(asked: Keep) -> Reservation:
        """Extends the reservation to at least this many seconds from now."""
        return _found(await inventory.keep(asked.order_id, seconds=asked.seconds))

    @api.post("/reservations/release")
    async def release(asked: AboutOrder) -> Reservation:
        """Closes the order and releases what it holds. Shipped items stay shipped."""
        return await inventory.release(asked.order_id)

    @api.post("/reservations/commit")
    async def commit(asked: AboutOrder) -> Reservation:
        """Ships the reserved items."""
        return await inventory.commit(asked.order_id)

    @api.post("/reservations/put-back")
    async def put_back(asked: AboutOrder) -> Reservation:
        """Closes the order: shipped or reserved items are for sale again."""
        return await inventory.put_back(asked.order_id)

    @api.post("/deliveries")
    async def receive(asked: Receive) -> list[DeliveryReceipt]:
        """Records deliveries and adds their pieces to the stock, all or none. Repeating it is safe."""
        return await inventory.receive(asked.deliveries, started_by=asked.started_by)

    @api.get("/stock")
    async def stock() -> list[ProductStock]:
        """Returns every product and the sums of its movements, at one moment."""
        return await inventory.stock()

    @api.get("/shipped")
    async def shipped(installation: Annotated[Installation | None, Query()] = None) -> dict[str, int]:
        """Returns the pieces per product that were shipped for one shop's orders and not put back; without
        `installation`, for orders whose ids have no prefix."""
        return await inventory.shipped(installation)

    @api.get("/holdings")
    async def holdings() -> list[Holding]:
        """Returns which order holds which items."""
        return await inventory.holdings()

    return api


class _Refused(Exception):
    """The request gets this answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem


def _found(reservation: Reservation | None) -> Reservation:
    if reservation is None:
        raise _Refused(Problem.NO_RESERVATION)
    return reservation


_BEARER = HTTPBearer(auto_error=False)


def _guarded(token: str | None) -> type[APIRoute]:
    """Returns a route class that checks the token before it reads the body. A dependency would run after the
    body was read."""

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                given = await _BEARER(request)
                # In constant time, so that the duration does not reveal how much of the token is right.
                if token is not None and not (
                    given and hmac.compare_digest(given.credentials.encode(), token.encode())
                ):
                    raise _Refused(Problem.UNAUTHORIZED)
                return await handle(request)

            return guarded

    return Guarded


def _answer_problems(app: FastAPI) -> None:
    @app.exception_handler(StepError)
    async def no(_: Request, error: StepError) -> Response:
        match error:
            case OutOfStock():
                short = [
                    ShortItem(product_id=s.product_id, requested=s.requested, available=s.available)
                    for s in error.shortages
                ]
                return _problem(Problem.OUT_OF_STOCK, str(error), short)
            case UnknownProducts():
                unknown = [ShortItem(product_id=i, requested=0, available=0) for i in error.product_ids]
                return _problem(Problem.UNKNOWN_PRODUCT, str(error), unknown)
            case DeliveryConflict():
                return _problem(Problem.DELIVERY_CONFLICT, str(error), received=error.received)
            case ReservationLost() | InventoryRefused():
                lost = isinstance(error, ReservationLost)
                return _problem(Problem.LOST if lost else Problem.REFUSED, str(error))
        raise error

    @app.exception_handler(_Refused)
    async def refused(_: Request, error: _Refused) -> Response:
        response = _problem(error.problem)
        if error.problem is Problem.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        # Field and rule only: the input is not repeated.
        wrong = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
        )
        return _problem(Problem.INVALID, wrong.encode("ascii", "replace").decode()[:1000])

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        if error.status_code in {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT}:
            detail = f"a body may have at most {_MOST_BYTES} bytes and must arrive within 20 s"
            response = _problem(Problem.INVALID, detail, status=error.status_code)
        else:
            response = _problem(Problem.NOT_FOUND, status=error.status_code)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(SQLAlchemyError)
    async def database(_: Request, error: SQLAlchemyError) -> Response:
        if not (is_database_error(error) or is_schema_mismatch(error)):
            raise error
        log.warning("the database is unavailable (%s)", type(error).__name__)
        response = _problem(Problem.UNAVAILABLE)
        response.headers["Retry-After"] = str(_RETRY_AFTER_SECONDS)
        return response


def _problem(
    kind: Problem,
    detail: str = "",
    shortages: list[ShortItem] | None = None,
    *,
    status: int | None = None,
    received: Mapping[str, Mapping[str, int]] | None = None,
) -> Response:
    usual, title = _TITLES[kind]
    problem = ProblemDetails(
        type=kind,
        title=title,
        status=status or usual,
        detail=detail,
        shortages=shortages or [],
        received={reference: dict(items) for reference, items in (received or {}).items()},
    )
    return Response(problem.model_dump_json(), status_code=problem.status, media_type=PROBLEM_JSON)


async def _keep_expiring(inventory: DatabaseInventory, seconds: float) -> None:
    while True:
        try:
            if expired := await inventory.expire():
                log.info("%d reservations expired", len(expired))
                continue
        except Exception as error:
            if not is_database_error(error):
                log.exception("releasing expired reservations failed")
        await asyncio.sleep(seconds)
