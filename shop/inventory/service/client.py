"""The HTTP client of an inventory service. It validates every answer.

It raises `InventoryMismatch` for an answer about another order, with other items, or in a state to which the
request cannot lead; and `InventoryUnavailable` (the result is unclear) for an invalid answer. It raises only
the exceptions of `Inventory`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from math import isfinite
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from saga.circuit_breaker import Circuit
from saga.errors import StepError
from shop.inventory.deliveries import DeliveryNote, DeliveryReceipt
from shop.inventory.errors import (
    DeliveriesNotRecorded,
    DeliveryConflict,
    InventoryMisconfigured,
    InventoryMismatch,
    InventoryRefused,
    InventoryTimeout,
    InventoryUnavailable,
    OutOfStock,
    ReservationLost,
    Shortage,
    UnknownProducts,
)
from shop.inventory.ledger import Holding, ProductStock
from shop.inventory.service.contract import Reservation, State
from shop.inventory.service.wire import (
    HOLDINGS,
    PROBLEM_JSON,
    RECEIPTS,
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
"""Limits the body of an answer, in bytes."""
_LIMITED_SECONDS, _LONGEST_WAIT = 5.0, 300.0
"""Seconds to wait after status 429: the default without a valid `Retry-After`, and the maximum."""
_PAUSES = (0.05, 0.2)
"""Seconds before each retry of a request that had no effect."""


class ServiceInventory:
    """An `Inventory` over one pool of at most `concurrency` connections, for one event loop.

    No exchange takes longer than `timeout_seconds`. The client retries only requests that change nothing
    (look-ups), or that were never sent (no connection). The caller has to look up any other unclear result.
    While its circuit is open, it raises `InventoryUnavailable` at once, with `retry_after`.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        timeout_seconds: float,
        concurrency: int,
        circuit: Circuit | None = None,
    ) -> None:
        self.url, self._timeout, self._circuit = url, timeout_seconds, circuit
        headers = {"Accept": f"application/json, {PROBLEM_JSON}", "Accept-Encoding": "identity"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        limits = httpx.Limits(
            max_connections=concurrency, max_keepalive_connections=concurrency, keepalive_expiry=5
        )
        # Loading the certificates takes 100 ms in each process, and only https needs them.
        verify = False if url.startswith("http:") else httpx.create_ssl_context(trust_env=False)
        self._slots = asyncio.Semaphore(concurrency)
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
            _expect(not wrong, "shortages of other items than the requested ones")
            raise OutOfStock(short)
        _expect(found.state in {State.HELD, State.SHIPPED}, f"a reservation that is {found.state}")
        _expect(found.items == dict(items), "a reservation of other items")
        return found

    async def get(self, order_id: str) -> Reservation | None:
        try:
            found = await self._with_retries(
                lambda: self._exchange("GET", "/v1/reservations", RESERVATION, query={"order_id": order_id})
            )
        except _OrderUnknown:
            return None
        _expect(found.order_id == order_id, "another order's reservation")
        return found

    async def keep(self, order_id: str, *, seconds: float) -> Reservation | None:
        try:
            return await self._post("/keep", order_id, "keep", seconds=seconds)
        except _OrderUnknown:
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

    async def receive(self, deliveries: Sequence[DeliveryNote], *, started_by: str) -> list[DeliveryReceipt]:
        """Records the deliveries at the service and adds their pieces to its stock, all or none. Raises
        `DeliveryConflict`, `UnknownProducts` and `DeliveriesNotRecorded`."""
        body = {
            "deliveries": [each.model_dump(mode="json", exclude_none=True) for each in deliveries],
            "started_by": started_by,
        }

        def send() -> Awaitable[list[DeliveryReceipt]]:
            return self._exchange("POST", "/v1/deliveries", RECEIPTS, body=body)

        try:
            found = await self._with_retries(send, only_if_unsent=True)
        except _UnknownProduct as unknown:
            asked = {item.product_id for each in deliveries for item in each.items}
            raise UnknownProducts([s.product_id for s in unknown.short] or sorted(asked)) from None
        except _DeliveryConflict as conflict:
            raise DeliveryConflict(conflict.received) from None
        except InventoryMisconfigured:
            await self.stock()  # raises the same if the address or the token is wrong
            raise DeliveriesNotRecorded(self.url) from None
        _expect(
            [each.reference for each in found] == [each.reference for each in deliveries],
            "receipts of other deliveries",
        )
        return found

    async def stock(self) -> list[ProductStock]:
        """Returns the stock of every product, according to the service."""
        return await self._with_retries(lambda: self._exchange("GET", "/v1/stock", STOCK))

    async def holdings(self) -> list[Holding]:
        """Returns all held reservations, according to the service."""
        return await self._with_retries(lambda: self._exchange("GET", "/v1/holdings", HOLDINGS))

    async def shipped(self, installation: str | None) -> dict[str, int] | None:
        """Returns the pieces per product that the service has shipped for the orders of this installation
        (None: for orders without an installation id). Returns None if the service does not distinguish
        shops: then it must have one shop's stock only."""
        query = {"installation": installation} if installation is not None else None
        try:
            return await self._with_retries(
                lambda: self._exchange("GET", "/v1/shipped", SHIPPED, query=query)
            )
        except (InventoryMisconfigured, InventoryRefused):
            return None

    async def aclose(self) -> None:
        with suppress(Exception):  # no request is in progress any more
            await self._client.aclose()

    # -- one exchange --

    async def _post(self, path: str, order_id: str, step: str, **fields: Any) -> Reservation:
        body = {"order_id": order_id, **fields}
        key = {"Idempotency-Key": names.key(order_id, step)}

        def send() -> Awaitable[Reservation]:
            return self._exchange("POST", f"/v1/reservations{path}", RESERVATION, body=body, headers=key)

        found = await self._with_retries(send, only_if_unsent=True)
        _expect(found.order_id == order_id, "another order's reservation")
        return found

    async def _with_retries(self, send: Callable[[], Awaitable[T]], *, only_if_unsent: bool = False) -> T:
        if self._circuit is None:
            return await self._retried(send, only_if_unsent)
        return await self._circuit.ask(lambda: self._retried(send, only_if_unsent))

    async def _retried(self, send: Callable[[], Awaitable[T]], only_if_unsent: bool) -> T:
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
                self._slots,
                asyncio.timeout(self._timeout),
                aclosing(await self._client.send(request, stream=True)) as response,
            ):
                content = await _read_body(response)
        except StepError:
            raise
        except (httpx.ConnectError, httpx.ConnectTimeout):
            failure = _Unsent("the inventory service cannot be reached")
        except (TimeoutError, httpx.TimeoutException):
            failure = InventoryTimeout(f"the inventory service gave no answer within {self._timeout:g} s")
        except Exception as error:  # noqa: BLE001  (a broken connection raises many types, also the event loop's)
            if request is None or isinstance(error, httpx.UnsupportedProtocol):
                failure = InventoryRefused(
                    f"the request to the inventory service is invalid: {type(error).__name__}"
                )
            else:  # the request may have been sent: no error here proves that it had no effect
                failure = InventoryUnavailable(
                    f"the connection to the inventory service broke: {type(error).__name__}"
                )
        else:
            return _parse(shape, response, content)
        raise failure  # outside of the except block: the original error may contain the token


class _Unsent(InventoryUnavailable):
    """The request was not sent."""


class _OrderUnknown(InventoryRefused):
    """The service has no reservation of this order."""


class _DeliveryConflict(InventoryRefused):
    """The service has received other goods under a reference."""

    def __init__(self, received: Mapping[str, Mapping[str, int]]) -> None:
        self.received = {one_line(reference): goods for reference, goods in received.items()}
        super().__init__("the inventory service has received other goods under this reference")


class _UnknownProduct(InventoryRefused):
    """The service has no such product."""

    def __init__(self, short: tuple[Shortage, ...]) -> None:
        self.short = short
        super().__init__("the inventory service does not know the product")


async def _read_body(response: httpx.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_raw():
        body += part
        if len(body) > _MOST_BYTES:
            raise InventoryUnavailable(f"the inventory service's answer exceeds {_MOST_BYTES:,} bytes")
    return bytes(body)


def _parse(shape: TypeAdapter[T], response: httpx.Response, content: bytes) -> T:
    if response.status_code != httpx.codes.OK:
        raise _refusal(response, content)
    with suppress(ValidationError):
        return shape.validate_json(content)
    # Outside of the `with` block: the validation error contains the answer.
    raise InventoryUnavailable("the inventory service's answer is invalid")


def _refusal(response: httpx.Response, content: bytes) -> StepError:
    status, problem = response.status_code, _problem(response, content)
    kind = problem.type if problem else ""
    match status, kind:
        case 409, Problem.OUT_OF_STOCK if problem and problem.shortages:
            return OutOfStock(_shortages(problem))
        case 409, Problem.LOST:
            return ReservationLost(f"the inventory service: {_reason(problem)}")
        case 409, Problem.DELIVERY_CONFLICT:
            return _DeliveryConflict(problem.received if problem else {})
        case 404, Problem.UNKNOWN_PRODUCT:
            return _UnknownProduct(_shortages(problem) if problem else ())
        case 404, Problem.NO_RESERVATION:
            return _OrderUnknown("the inventory service has no reservation of this order")
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
                "the inventory service limits the rate of requests", retry_after=_retry_after(response)
            )
        case ((408 | 425), _):
            return InventoryUnavailable(f"the inventory service answered {status}")
        case _ if 400 <= status < 500:
            return InventoryRefused(f"the inventory service refused ({status}): {_reason(problem)}")
    return InventoryUnavailable(f"the inventory service answered {status}")


def _problem(response: httpx.Response, content: bytes) -> ProblemDetails | None:
    """Parses the problem details; None if the answer has none."""
    if not response.headers.get("content-type", "").startswith(PROBLEM_JSON):
        return None
    try:
        return ProblemDetails.model_validate_json(content)
    except ValidationError:
        return None


def _shortages(problem: ProblemDetails) -> tuple[Shortage, ...]:
    return tuple(
        Shortage(one_line(s.product_id, 500), s.requested, max(0, s.available)) for s in problem.shortages
    )


def _reason(problem: ProblemDetails | None) -> str:
    return one_line((problem.detail or problem.title) if problem else "", 300) or "without a reason"


def _retry_after(response: httpx.Response) -> float:
    """Returns the seconds to wait: those of `Retry-After`, from 1 to `_LONGEST_WAIT`."""
    try:
        asked = float(response.headers.get("retry-after", ""))
    except ValueError:
        return _LIMITED_SECONDS
    return min(max(asked, 1.0), _LONGEST_WAIT) if isfinite(asked) else _LIMITED_SECONDS


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise InventoryMismatch(otherwise)
