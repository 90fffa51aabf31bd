"""One exchange with EasyPost, by its own client: a time limit, a bounded number at once, and nothing but typed errors.

The client is synchronous: each call has a thread. What it sends goes over an HTTPX pool of ours, which ends an
answer that takes too long or is too large, follows no redirect, and sends no login of `~/.netrc` in place of our key.
The client's own repetitions are off, because ours can be seen and know the journal.
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
    EasyPostError,
    ForbiddenError,
    HttpError,
    InvalidRequestError,
    JsonError,
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
"""After a limit of requests, for so long."""
_MOST_BYTES = 8_000_000
_NO_RESPONSE = "SHIPMENT.POSTAGE.NO_RESPONSE"
_SECRET = re.compile(r"EZ[A-Za-z0-9_-]{10,}")


class NotThere(CarrierRefused):
    """EasyPost knows nothing of this id or reference."""


class AnsweredNo(CarrierRefused):
    """EasyPost understood and says no; `reason` is its own code."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(f"EasyPost: {message}" + (f" ({reason})" if reason else ""))


@dataclass(frozen=True, slots=True)
class _Answer:
    """What EasyPost's client reads of an answer."""

    status_code: int
    text: str
    headers: Mapping[str, str]


class _Session:
    """Takes the place of the client's session of `requests`, in the client's threads; what is sent is sent from the event loop."""

    def __init__(self, exchange: Callable[..., Any], seconds: float) -> None:
        self._exchange, self._seconds = exchange, seconds
        self.loop: asyncio.AbstractEventLoop | None = None

    def request(self, method: str, url: str, *, params: Any, headers: Any, json: Any, timeout: float, verify: bool) -> _Answer:  # noqa: ARG002
        assert self.loop is not None
        asked = asyncio.run_coroutine_threadsafe(self._exchange(method, url, params=params, headers=headers, json=json), self.loop)
        try:
            status, headers, body = asked.result(self._seconds + 1)
        except (TimeoutError, httpx.TimeoutException) as error:
            asked.cancel()
            raise requests.exceptions.Timeout from error  # the one that the client knows
        return _Answer(status, body.decode(), headers)


class EasyPostCalls:
    """At most `concurrency` calls at once. None takes longer than twice `timeout_seconds` from the moment it has its turn: so long to
    connect and be sent, and so long to be answered. To be used in one event loop."""

    def __init__(self, url: str, api_key: str, timeout_seconds: float, concurrency: int, label_hosts: Collection[str] = ()) -> None:
        """`label_hosts`: where labels may be fetched, beside `url` itself."""
        self._url, self._timeout, self._label_hosts = httpx.URL(url), timeout_seconds, frozenset(host.lower() for host in label_hosts)
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="easypost")
        self._turns = asyncio.Semaphore(concurrency)
        plain = self._url.scheme == "http"
        # Only https may need certificates (100 ms to load) or go through the proxy that the environment names.
        self._http = httpx.AsyncClient(
            verify=False if plain else httpx.create_ssl_context(),
            trust_env=not plain,
            timeout=timeout_seconds,
            follow_redirects=False,
            headers={"Accept-Encoding": "identity"},
            limits=httpx.Limits(max_connections=concurrency, keepalive_expiry=5),
        )
        self._client = easypost.EasyPostClient(api_key, api_base=f"{url.rstrip('/')}/v2", timeout=timeout_seconds)  # type: ignore[arg-type]
        self._client._requests_session.close()
        self._session = _Session(self._exchange, 2 * timeout_seconds)
        self._client._requests_session = self._session  # type: ignore[assignment]

    async def __call__(self, ask: Ask) -> dict[str, Any]:
        """The answer. Raises `NotThere`, `AnsweredNo`, `CarrierTimeout`, `CarrierUnavailable` and `CarrierMisconfigured`."""
        self._session.loop = asyncio.get_running_loop()
        return await self._typed(lambda: self._in_thread(ask))

    async def download(self, url: str) -> bytes:
        """A file that EasyPost has put somewhere: it is fetched without our key, and from hosts only that are EasyPost's."""
        return await self._typed(lambda: self._fetch(url))

    async def _typed(self, ask: Callable[[], Awaitable[T]]) -> T:
        failure: StepError
        try:
            async with self._turns, asyncio.timeout(2 * self._timeout):
                return await ask()
        except StepError:
            raise
        except Exception as error:  # noqa: BLE001  (rubbish breaks the client in many ways; none of them is the order's fault)
            failure = to_error(error, self._timeout)
        raise failure  # outside of the except: the first error may have the key, or the customer's address, in it

    async def _in_thread(self, ask: Ask) -> dict[str, Any]:
        answer = await asyncio.get_running_loop().run_in_executor(self._threads, lambda: ask(self._client))
        return dict(answer.to_dict() if hasattr(answer, "to_dict") else answer)

    async def _fetch(self, url: str) -> bytes:
        asked = httpx.URL(url)
        if not self._may_fetch(asked):
            where = one_line(asked.host, 100)
            raise CarrierUnavailable(f"EasyPost says that the label is at {where!r}, which is none of its hosts (CARRIER_LABEL_HOSTS)")
        status, _, body = await self._exchange("GET", url)
        if status != httpx.codes.OK:
            raise CarrierUnavailable(f"EasyPost's files answered {status}")
        return body

    def _may_fetch(self, url: httpx.URL) -> bool:
        if (url.scheme, url.host, url.port) == (self._url.scheme, self._url.host, self._url.port):
            return not url.userinfo
        return url.scheme == "https" and url.host in self._label_hosts and url.port is None and not url.userinfo

    async def _exchange(self, method: str, url: str, **options: Any) -> tuple[int, Mapping[str, str], bytes]:
        async with asyncio.timeout(2 * self._timeout), self._http.stream(method, url, **options) as response:
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > _MOST_BYTES:
                    raise ValueError("more than any honest answer")
            return response.status_code, response.headers, bytes(body)

    async def aclose(self) -> None:
        """Does not wait for calls that are under way: each ends by its time limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with suppress(Exception):  # nothing is under way any more that could be harmed
            await self._http.aclose()


def to_error(error: Exception, timeout: float) -> StepError:
    """EasyPost's errors as ours. What was sent and not clearly answered may have been done."""
    match error:
        case TimeoutError() | easypost.errors.TimeoutError() | httpx.TimeoutException():
            return CarrierTimeout(f"EasyPost gave no answer within {timeout:g} s")
        case UnauthorizedError() | ForbiddenError():
            return CarrierMisconfigured("EasyPost does not accept the key: check EASYPOST_API_KEY, and what this key may do")
        case PaymentError():
            # As one that is away: somebody tops it up, and orders that are paid wait for that as long as stock is reserved for them.
            return CarrierUnavailable("the EasyPost account of EASYPOST_API_KEY cannot pay for labels: top it up")
        case RateLimitError():
            return CarrierUnavailable("EasyPost limits how often it is asked", retry_after=LIMITED_SECONDS)
        case NotFoundError():
            return NotThere("EasyPost has no such shipment")
        case InvalidRequestError() if error.code != _NO_RESPONSE:
            return AnsweredNo(str(error.code or ""), _shown(error))
        case ApiError(http_status=400 | 405):
            return AnsweredNo(str(error.code or ""), _shown(error))
        case ApiError(http_status=int() as status):
            return CarrierUnavailable(f"EasyPost answered {status}")
        case HttpError() | JsonError() | EasyPostError():
            return CarrierUnavailable(f"EasyPost could not be reached, or was not understood ({type(error).__name__})")
        case _:
            return CarrierUnavailable(f"EasyPost could not be reached, or was not understood ({type(error).__name__})")


def _shown(error: ApiError) -> str:
    """EasyPost's own words, and which fields it means; never a key."""
    fields = [f"{e.get('field')}: {e.get('message')}" for e in error.errors or [] if isinstance(e, dict) and e.get("field")]  # type: ignore[attr-defined]
    return _SECRET.sub("(key)", one_line("; ".join([error.message, *fields]), 300))
