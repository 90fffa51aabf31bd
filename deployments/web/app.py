"""The web app: Stripe's webhooks, and the intake for shops that submit orders over HTTP.

order-saga web                              # on WEB_HOST and WEB_PORT
uvicorn deployments.web.app:app            # with your own options, without our limits for slow clients

It needs only the database. What it answers with 2xx is stored; flows on the workers do the rest:

- `POST /orders` stores the order and starts the pending lane if no consumer runs. While the Prefect server is
  unavailable, orders are accepted, and processed when it is back.
- `POST /orders/shopify` and `POST /orders/woocommerce` take those shops' webhooks: orders, and what becomes
  of them later.
- Below `/orders/{id}`, orders are cancelled, retried and given another address, and money that came for them
  is recorded: each request is stored, and a worker does what follows. `GET` of what cancelling costs, and of
  a payment, asks the payment gateway, with a time limit.
- `POST /stock/deliveries` records goods, in our tables or at the inventory service.
- `POST /webhooks/stripe` checks the signature and stores the event by its id. In the same transaction it
  wakes an order that waits for its customer. Everything else requires calls to Stripe, so the running
  consumer does it, within a second; if none runs, a run of `housekeeping` is started. An event only says
  where to look: charges, refunds and disputes are read from Stripe, and compared and repaired as by
  `reconcile-payments`. So events may be repeated, late, or out of order.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from http import HTTPStatus
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from deployments.running import use_running_world
from deployments.trigger import start_handling_events, wake_pending_lane
from deployments.watched import why_unusable
from deployments.web import documents, order_parts, orders, payments, stock, webhooks
from deployments.web.problems import Problem, ProblemError, answer_problems, answers
from saga.database import close_engine
from shop.monitoring.exposition.endpoint import PATH, Exposition, metrics_token
from shop.payments.gateways import close_gateway
from shop.retention.files import deleting_files_of_erased_customers
from shop.settings import settings

use_running_world()
log = logging.getLogger(__name__)
_DATABASE_SECONDS = 3


class Starter:
    """Calls `start` soon after `ring`, in its own thread, at most once a second."""

    def __init__(self, name: str, start: Callable[[], object]) -> None:
        self._start = start
        self._rung, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Starter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Does not wait for a start in progress."""
        self._over.set()
        self._rung.set()

    def ring(self) -> None:
        """Requests a start. Never raises, never waits."""
        self._rung.set()

    def _run(self) -> None:
        while True:
            self._rung.wait()
            if self._over.is_set():
                return
            self._rung.clear()
            try:
                self._start()
            except Exception as error:  # noqa: BLE001  (its work is stored: the schedule starts it)
                log.warning(
                    "%s could not be started (%s): the schedule starts it",
                    self._thread.name,
                    type(error).__name__,
                )
            self._over.wait(1)


class Live(BaseModel):
    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    status: Literal["ok"] = "ok"
    orders: bool
    """Whether `ORDERS_API_KEY` is set."""
    stripe_webhooks: bool
    """Whether `STRIPE_WEBHOOK_SECRET` is set."""
    shops: list[str]
    """The shop systems whose webhooks are taken: those with a secret."""


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    with ExitStack() as starters:
        app.state.pending = starters.enter_context(Starter("the pending lane", wake_pending_lane))
        app.state.metrics = Exposition("web app", token=metrics_token())
        app.state.events = starters.enter_context(Starter("handling payment events", start_handling_events))
        # Here, because uvicorn may serve the app without our command.
        starters.enter_context(deleting_files_of_erased_customers())
        yield
    await close_gateway()
    await close_engine()


def create_app() -> FastAPI:
    """Makes the app with the settings of this process."""
    # Without FastAPI's documentation pages: they load third-party scripts, which would run where browsers
    # store a key of ORDERS_API_KEY.
    made = _App(
        title="Order saga",
        version="1",
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    answer_problems(made)
    # In this sequence, because a path is also that of an order whose id looks like it.
    parts = order_parts, payments, webhooks, orders, stock, documents
    routers = [each.router for each in parts]
    for router in routers:
        made.include_router(router)

    @made.get("/health", tags=["health"])
    async def health() -> Live:
        """Reports that the web app runs. Asks nothing else: restarting it brings no database back."""
        return Live()

    @made.get("/ready", tags=["health"], responses=answers(HTTPStatus.SERVICE_UNAVAILABLE))
    async def ready() -> Ready:
        """Reports whether orders and events can be accepted: the database answers and is writable, and their
        keys are set."""
        if (trouble := await why_unusable(_DATABASE_SECONDS)) is not None:
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, trouble)
        s = settings()
        shops = {"shopify": s.shopify.webhook_secrets, "woocommerce": s.woocommerce.webhook_secrets}
        return Ready(
            orders=bool(s.web.orders_api_keys),
            stripe_webhooks=bool(s.stripe.webhook_secrets),
            shops=[name for name, secrets in shops.items() if secrets],
        )

    @made.get(PATH, include_in_schema=False)
    def read_metrics(request: Request) -> Response:
        """Serves Prometheus. Requires `METRICS_TOKEN`, because the app may be on the internet. Runs in a
        thread, because it may wait for the database."""
        metrics: Exposition = request.app.state.metrics
        if metrics.token is None or not metrics.allows(request.headers.get("Authorization")):
            why = (
                "METRICS_TOKEN is not set here" if metrics.token is None else "the token is missing or wrong"
            )
            raise ProblemError(HTTPStatus.UNAUTHORIZED, why, headers={"WWW-Authenticate": "Bearer"})
        body, content_type = metrics.answer(request.headers.get("Accept"))
        return Response(body, media_type=content_type, headers={"Cache-Control": "no-store"})

    made.state.routes = [*(route for router in routers for route in router.routes), *made.router.routes]
    return made


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Adds the schema of problems, and removes FastAPI's own errors, which are never returned."""
        if not self.openapi_schema:
            made = super().openapi()
            schemas = made["components"]["schemas"]
            problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= {**problem.pop("$defs"), "Problem": problem}
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
        return self.openapi_schema or {}


app = create_app()
