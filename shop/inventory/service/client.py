"""The client of an inventory service. It validates every answer.

An answer about another order, with other items, or in a state to which the request cannot lead is
`InventoryMismatch`; one that is no valid answer is `InventoryUnavailable`, so its result is unclear. It
raises no other exceptions than those of `Inventory`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from math import isfinite
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from saga.errors import StepError
from shop.inventory.errors import (
    InventoryMisconfigured,
    InventoryMismatch,
    InventoryRefused,
    InventoryTimeout,
    InventoryUnavailable,
    OutOfStock,
    ReservationLost,
    Shortage,
)
from shop.inventory.ledger import Holding, ProductStock
from shop.inventory.service.contract import Reservation, State
from shop.inventory.service.wire import (
    HOLDINGS,
    PROBLEM_JSON,
    RESERVATION,
    SHIPPED,
    STOCK,
    Problem,
    ProblemDetails,
)
from shop.orders import names
from shop.text.sanitize import one_line

T = TypeVar("T")
_MOST_BYTES = 16_000_000
_LIMITED_SECONDS, _LONGEST_WAIT = 5.0, 300.0
_PAUSES = (0.05, 0.2)
"""Seconds before a request that had no effect is sent again."""


class ServiceInventory:
    """An `Inventory` over one pool of at most `concurrency` connections, of the event loop in which it is
    used.

    No exchange takes longer than `timeout_seconds`. Only requests that change nothing (look-ups), or that
    were never sent (no connection), are repeated at once. Every other unclear result is for the caller to
    look up.
    """

    def __init__(self, url: str, token: str | None, *, timeout_seconds: float, concurrency: int) -> None:
        self.url, self._timeout = url, timeout_seconds
        headers = {"Accept": f"application/json, {PROBLEM_JSON}", "Accept-Encoding": "identity"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        limits = httpx.Limits(
            max_connections=concurrency, max_keepalive_connections=concurrency, keepalive_expiry=5
        )
        # Loading the certificates takes 100 ms, in each process; without https there is nothing to verify.
        verify = False if url.startswith("http:") else httpx.create_ssl_context(trust_env=False)
        self._turns = asyncio.Semaphore(concurrency)
        self._client = httpx.AsyncClient(
            headers=headers, timeout=timeout_seconds, limits=limits, verify=verify, trust_env=False
        )

    async def reserve(self, order_id: str, items: Mapping[str, int], *, seconds: float) -> Reservation:
        short: tuple[Shortage, ...] = ()
        try:
            found = await self._post("", order_id, "reserve", items=dict(items), seconds=seconds)
        except _UnknownProduct as unknown:
            short = unknown.short or tuple(Shortage(product, pieces, 0) for product, pieces in items.items())
        except OutOfStock as refusal:
            short = refusal.shortages
        if short:
            wrong = [s for s in short if s.requested != items.get(s.product_id) or s.available >= s.requested]
            _expect(not wrong, "shortages of other items than were asked for")
            raise OutOfStock(short)
        _expect(found.state in {State.HELD, State.SHIPPED}, f"a reservation that is {found.state}")
        _expect(found.items == dict(items), "a reservation of other items")
        return found

    async def get(self, order_id: str) -> Reservation | None:
        try:
            found = await self._again(
                lambda: self._exchange("GET", "/v1/reservations", RESERVATION, query={"order_id": order_id})
            )
        except _NothingKnown:
            return None
        _expect(found.order_id == order_id, "another order's reservation")
        return found

    async def keep(self, order_id: str, *, seconds: float) -> Reservation | None:
        try:
            return await self._post("/keep", order_id, "keep", seconds=seconds)
        except _NothingKnown:
            return None

    async def release(self, order_id: str) -> Reservation:
        found = await self._post("/release", order_id, "release")
        _expect(
            found.state in {State.RELEASED, State.SHIPPED, State.RETURNED},
            f"a reservation that is still {found.state}",
        )
        return found

    async def commit(self, order_id: str) -> Reservation:
        found = await self._post("/commit", order_id, "commit")
        _expect(found.state is State.SHIPPED, f"a reservation that is {found.state}, and not shipped")
        return found

    async def put_back(self, order_id: str) -> Reservation:
        found = await self._post("/put-back", order_id, "put-back")
        _expect(found.state in {State.RELEASED, State.RETURNED}, f"a reservation that is still {found.state}")
        return found

    async def stock(self) -> list[ProductStock]:
        """Returns every product, by the service's own books."""
        return await self._again(lambda: self._exchange("GET", "/v1/stock", STOCK))

    async def holdings(self) -> list[Holding]:
        """Returns who holds what, by the service's own books."""
        return await self._again(lambda: self._exchange("GET", "/v1/holdings", HOLDINGS))

    async def shipped(self, installation: str | None) -> dict[str, int] | None:
        """Returns the pieces per product that the service has shipped for this shop's orders (None: for
        orders without an installation id). Returns None if the service does not distinguish shops: then it
        must have one shop's stock only."""
        query = {"installation": installation} if installation is not None else None
        try:
            return await self._again(lambda: self._exchange("GET", "/v1/shipped", SHIPPED, query=query))
        except (InventoryMisconfigured, InventoryRefused):
            return None

    async def aclose(self) -> None:
        with suppress(Exception):  # nothing is under way any more that could be harmed
            await self._client.aclose()

    # -- one exchange --

    async def _post(self, path: str, order_id: str, step: str, **fields: Any) -> Reservation:
        body = {"order_id": order_id, **fields}
        key = {"Idempotency-Key": names.key(order_id, step)}

        def send() -> Awaitable[Reservation]:
            return self._exchange("POST", f"/v1/reservations{path}", RESERVATION, body=body, headers=key)

        found = await self._again(send, only_if_unsent=True)
        _expect(found.order_id == order_id, "another order's reservation")
        return found

    async def _again(self, send: Callable[[], Awaitable[T]], *, only_if_unsent: bool = False) -> T:
        for pause in _PAUSES:
            try:
                return await send()
            except _Unsent:
                pass
            except InventoryUnavailable as error:
                if only_if_unsent or error.retry_after is not None or isinstance(error, InventoryTimeout):
                    raise
            await asyncio.sleep(pause)
        return await send()

    async def _exchange(
        self,
        method: str,
        path: str,
        shape: TypeAdapter[T],
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        failure: StepError
        request: httpx.Request | None = None
        try:
            request = self._client.build_request(
                method, self.url + path, json=body, params=query, headers=headers
            )
            async with (
                self._turns,
                asyncio.timeout(self._timeout),
                aclosing(await self._client.send(request, stream=True)) as response,
            ):
                content = await _whole(response)
        except StepError:
            raise
        except (httpx.ConnectError, httpx.ConnectTimeout):
            failure = _Unsent("the inventory service cannot be reached")
        except (TimeoutError, httpx.TimeoutException):
            failure = InventoryTimeout(f"the inventory service gave no answer within {self._timeout:g} s")
        except Exception as error:  # noqa: BLE001  (a broken connection has many names, down to those of the event loop)
            if request is None or isinstance(error, httpx.UnsupportedProtocol):
                failure = InventoryRefused(
                    f"this cannot be asked of an inventory service: {type(error).__name__}"
                )
            else:  # once it may have been sent, no error of ours is a clear no: an answer may have caused it
                failure = InventoryUnavailable(
                    f"the connection to the inventory service broke: {type(error).__name__}"
                )
        else:
            return _read(shape, response, content)
        raise failure  # outside of the except: the first error may have the token in it


class _Unsent(InventoryUnavailable):
    """Nothing was sent."""


class _NothingKnown(InventoryRefused):
    """Of this order."""


class _UnknownProduct(InventoryRefused):
    """The service has no such product."""

    def __init__(self, short: tuple[Shortage, ...]) -> None:
        self.short = short
        super().__init__("the inventory service does not know the product")


async def _whole(response: httpx.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > _MOST_BYTES:
            raise InventoryUnavailable("the inventory service answered more than any honest answer")
    return bytes(body)


def _read(shape: TypeAdapter[T], response: httpx.Response, content: bytes) -> T:
    if response.status_code != httpx.codes.OK:
        raise _refusal(response, content)
    with suppress(ValidationError):
        return shape.validate_json(content)
    raise InventoryUnavailable(
        "the inventory service's answer makes no sense"
    )  # outside: the error has the answer in it


def _refusal(response: httpx.Response, content: bytes) -> StepError:
    status, problem = response.status_code, _problem(response, content)
    kind = problem.type if problem else ""
    match status, kind:
        case 409, Problem.OUT_OF_STOCK if problem and problem.shortages:
            return OutOfStock(_short(problem))
        case 409, Problem.LOST:
            return ReservationLost(f"the inventory service: {_said(problem)}")
        case 404, Problem.UNKNOWN_PRODUCT:
            return _UnknownProduct(_short(problem) if problem else ())
        case 404, Problem.NO_RESERVATION:
            return _NothingKnown("the inventory service knows nothing of this order")
        case ((401 | 403), _):
            return InventoryMisconfigured(
                "the inventory service does not accept the token: check INVENTORY_SERVICE_TOKEN"
            )
        case ((404 | 405 | 410), _):
            return InventoryMisconfigured(
                "there is no inventory service at this address: check INVENTORY_SERVICE_URL"
            )
        case 429, _:
            return InventoryUnavailable(
                "the inventory service limits how often it is asked", retry_after=_wait(response)
            )
        case ((408 | 425), _):
            return InventoryUnavailable(f"the inventory service answered {status}")
        case _ if 400 <= status < 500:
            return InventoryRefused(f"the inventory service refused ({status}): {_said(problem)}")
    return InventoryUnavailable(f"the inventory service answered {status}")


def _problem(response: httpx.Response, content: bytes) -> ProblemDetails | None:
    """Returns the problem; None if the answer is not a refusal by an inventory service."""
    if not response.headers.get("content-type", "").startswith(PROBLEM_JSON):
        return None
    try:
        return ProblemDetails.model_validate_json(content)
    except ValidationError:
        return None


def _short(problem: ProblemDetails) -> tuple[Shortage, ...]:
    return tuple(
        Shortage(one_line(s.product_id, 500), s.requested, max(0, s.available)) for s in problem.shortages
    )


def _said(problem: ProblemDetails | None) -> str:
    return one_line((problem.detail or problem.title) if problem else "", 300) or "without a reason"


def _wait(response: httpx.Response) -> float:
    """Seconds, by `Retry-After`; within reason."""
    try:
        asked = float(response.headers.get("retry-after", ""))
    except ValueError:
        return _LIMITED_SECONDS
    return min(max(asked, 1.0), _LONGEST_WAIT) if isfinite(asked) else _LIMITED_SECONDS


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise InventoryMismatch(otherwise)
