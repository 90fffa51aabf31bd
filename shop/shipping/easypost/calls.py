"""Calls to EasyPost with its own client, with a timeout, limited concurrency and typed errors.

The client is synchronous: each call has a thread. Requests go over our HTTPX pool, which aborts answers that
are too slow or too large, follows no redirects, and does not replace our key with a login from `~/.netrc`.
The client's own retries are off: the saga's retries are visible and use the journal.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import easypost
import easypost.errors
import httpx
import requests
from easypost.errors import (
    ApiError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    PaymentError,
    RateLimitError,
    UnauthorizedError,
)

from saga.errors import StepError
from shop.shipping.errors import CarrierMisconfigured, CarrierRefused, CarrierTimeout, CarrierUnavailable
from shop.text.sanitize import one_line

T = TypeVar("T")
Ask = Callable[[easypost.EasyPostClient], Any]
LIMITED_SECONDS = 5.0
"""Pause after EasyPost's rate limit, in seconds."""
_MOST_BYTES = 8_000_000
"""Limits the size of an answer; valid ones are smaller."""
_NO_RESPONSE = "SHIPMENT.POSTAGE.NO_RESPONSE"
_SECRET = re.compile(r"EZ[A-Za-z0-9_-]{10,}")


class ShipmentNotFound(CarrierRefused):
    """EasyPost has no shipment with this id or reference."""


class Rejected(CarrierRefused):
    """EasyPost rejected the request; `reason` is its own code."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(f"EasyPost: {message}" + (f" ({reason})" if reason else ""))


@dataclass(frozen=True, slots=True)
class _Answer:
    """The part of an answer that EasyPost's client reads."""

    status_code: int
    text: str
    headers: Mapping[str, str]


class _Session:
    """Replaces the client's `requests` session, in the client's threads.
    It sends requests in the event loop."""

    def __init__(self, exchange: Callable[..., Any], seconds: float) -> None:
        self._exchange, self._seconds = exchange, seconds
        self.loop: asyncio.AbstractEventLoop | None = None

    def request(
        self,
        method: str,
        url: str,
        *,
        params: Any,
        headers: Any,
        json: Any,
        timeout: float,  # noqa: ARG002  (the client's; `_exchange` has its own)
        verify: bool,  # noqa: ARG002
    ) -> _Answer:
        assert self.loop is not None
        request = asyncio.run_coroutine_threadsafe(
            self._exchange(method, url, params=params, headers=headers, json=json), self.loop
        )
        try:
            status, headers, body = request.result(self._seconds + 1)
        except (TimeoutError, httpx.TimeoutException) as error:
            request.cancel()
            raise requests.exceptions.Timeout from error  # the exception that the client expects
        return _Answer(status, body.decode(), headers)


class EasyPostCalls:
    """Runs at most `concurrency` calls at once, in one event loop. A call takes at most twice
    `timeout_seconds`, without the wait for a free slot: once to connect and send, once for the answer."""

    def __init__(
        self,
        url: str,
        api_key: str,
        timeout_seconds: float,
        concurrency: int,
        label_hosts: Collection[str] = (),
    ) -> None:
        """`label_hosts`: hosts from which labels may be downloaded, besides that of `url`."""
        self._url, self._timeout, self._label_hosts = (
            httpx.URL(url),
            timeout_seconds,
            frozenset(host.lower() for host in label_hosts),
        )
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="easypost")
        self._turns = asyncio.Semaphore(concurrency)
        plain = self._url.scheme == "http"
        # Certificates (100 ms to load) and the proxy from the environment are used for https only.
        self._http = httpx.AsyncClient(
            verify=False if plain else httpx.create_ssl_context(),
            trust_env=not plain,
            timeout=timeout_seconds,
            follow_redirects=False,
            headers={"Accept-Encoding": "identity"},
            limits=httpx.Limits(max_connections=concurrency, keepalive_expiry=5),
        )
        self._client = easypost.EasyPostClient(
            api_key,
            api_base=f"{url.rstrip('/')}/v2",
            timeout=timeout_seconds,  # type: ignore[arg-type]
        )
        self._client._requests_session.close()
        self._session = _Session(self._exchange, 2 * timeout_seconds)
        self._client._requests_session = self._session  # type: ignore[assignment]

    async def __call__(self, ask: Ask) -> dict[str, Any]:
        """Returns the answer. Raises `ShipmentNotFound`, `Rejected`, `CarrierTimeout`, `CarrierUnavailable`
        and `CarrierMisconfigured`."""
        self._session.loop = asyncio.get_running_loop()
        return await self._typed(lambda: self._in_thread(ask))

    async def download(self, url: str) -> bytes:
        """Downloads a file of EasyPost, without our key, and only from EasyPost's hosts."""
        return await self._typed(lambda: self._fetch(url))

    async def _typed(self, ask: Callable[[], Awaitable[T]]) -> T:
        failure: StepError
        try:
            async with self._turns, asyncio.timeout(2 * self._timeout):
                return await ask()
        except StepError:
            raise
        except Exception as error:  # noqa: BLE001  (invalid answers raise many exceptions in the client)
            failure = to_error(error, self._timeout)
        raise failure  # outside of the except: the first error may contain the key or the customer's address

    async def _in_thread(self, ask: Ask) -> dict[str, Any]:
        answer = await asyncio.get_running_loop().run_in_executor(self._threads, lambda: ask(self._client))
        return dict(answer.to_dict() if hasattr(answer, "to_dict") else answer)

    async def _fetch(self, url: str) -> bytes:
        request = httpx.URL(url)
        if not self._may_fetch(request):
            where = one_line(request.host, 100)
            raise CarrierUnavailable(
                f"EasyPost's label is at {where!r}, which is not one of the hosts in CARRIER_LABEL_HOSTS"
            )
        status, _, body = await self._exchange("GET", url)
        if status != httpx.codes.OK:
            raise CarrierUnavailable(f"the download of EasyPost's label was answered with {status}")
        return body

    def _may_fetch(self, url: httpx.URL) -> bool:
        if (url.scheme, url.host, url.port) == (self._url.scheme, self._url.host, self._url.port):
            return not url.userinfo
        return (
            url.scheme == "https" and url.host in self._label_hosts and url.port is None and not url.userinfo
        )

    async def _exchange(self, method: str, url: str, **options: Any) -> tuple[int, Mapping[str, str], bytes]:
        async with asyncio.timeout(2 * self._timeout), self._http.stream(method, url, **options) as response:
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > _MOST_BYTES:
                    raise ValueError("the answer is too large")
            return response.status_code, response.headers, bytes(body)

    async def aclose(self) -> None:
        """Closes the connections without waiting for running calls, which end by their timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with suppress(Exception):  # the connections are not used any more
            await self._http.aclose()


def to_error(error: Exception, timeout: float) -> StepError:
    """Converts EasyPost's errors to ours. A request without a clear answer may have been executed."""
    match error:
        case TimeoutError() | easypost.errors.TimeoutError() | httpx.TimeoutException():
            return CarrierTimeout(f"EasyPost gave no answer within {timeout:g} s")
        case UnauthorizedError() | ForbiddenError():
            return CarrierMisconfigured(
                "EasyPost does not accept the key: check EASYPOST_API_KEY and its permissions"
            )
        case PaymentError():
            # Like an outage: paid orders wait until the account is topped up, while their stock is reserved.
            return CarrierUnavailable(
                "the EasyPost account of EASYPOST_API_KEY cannot pay for labels: top it up"
            )
        case RateLimitError():
            return CarrierUnavailable("EasyPost's rate limit is exceeded", retry_after=LIMITED_SECONDS)
        case NotFoundError():
            return ShipmentNotFound("EasyPost has no such shipment")
        case InvalidRequestError() if error.code != _NO_RESPONSE:
            return Rejected(str(error.code or ""), _message(error))
        case ApiError(http_status=400 | 405):
            return Rejected(str(error.code or ""), _message(error))
        case ApiError(http_status=int() as status):
            return CarrierUnavailable(f"EasyPost answered {status}")
        case _:
            return CarrierUnavailable(
                f"EasyPost is unreachable, or its answer could not be interpreted ({type(error).__name__})"
            )


def _message(error: ApiError) -> str:
    """Returns EasyPost's own message and the fields that it names, without keys."""
    fields = [
        f"{each.get('field')}: {each.get('message')}"
        for each in list[Any](error.errors or [])
        if isinstance(each, dict) and each.get("field")
    ]
    return _SECRET.sub("(key)", one_line("; ".join([error.message, *fields]), 300))
