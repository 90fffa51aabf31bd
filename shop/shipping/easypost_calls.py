"""One exchange with EasyPost, by its own client: a time limit, a bounded number at once, and nothing but typed errors.

The client is synchronous: each call has a thread. Its own repetitions are off, because ours can be seen and know the journal.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import easypost
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
    TimeoutError,  # noqa: A004
    UnauthorizedError,
)

from shop.errors import CarrierMisconfigured, CarrierRefused, CarrierTimeout, CarrierUnavailable, OrderError
from shop.plain import one_line

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


class EasyPostCalls:
    """At most `concurrency` calls at once. None takes longer than twice `timeout_seconds` from the moment it has its turn: so long to
    connect and be sent, and so long to be answered."""

    def __init__(self, url: str, api_key: str, timeout_seconds: float, concurrency: int) -> None:
        self._timeout = timeout_seconds
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="easypost")
        self._turns = asyncio.Semaphore(concurrency)
        self._client = easypost.EasyPostClient(api_key, api_base=f"{url.rstrip('/')}/v2", timeout=timeout_seconds)  # type: ignore[arg-type]
        session: requests.Session = self._client._requests_session
        session.mount(url.rstrip("/"), requests.adapters.HTTPAdapter(pool_maxsize=concurrency, max_retries=0))
        session.trust_env = not url.startswith("http:")  # only https may go through the proxy that the environment names

    async def __call__(self, ask: Ask) -> dict[str, Any]:
        """The answer. Raises `NotThere`, `AnsweredNo`, `CarrierTimeout`, `CarrierUnavailable` and `CarrierMisconfigured`."""
        answer = await self._in_thread(lambda: ask(self._client))
        return dict(answer.to_dict() if hasattr(answer, "to_dict") else answer)

    async def download(self, url: str) -> bytes:
        """A file that EasyPost has put somewhere: it is fetched without our key."""
        return bytes(await self._in_thread(lambda: _download(url, self._timeout)))

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        failure: OrderError
        try:
            async with self._turns, asyncio.timeout(2 * self._timeout):
                answer = await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except Exception as error:  # noqa: BLE001  (rubbish breaks the client in many ways; none of them is the order's fault)
            failure = to_error(error, self._timeout)
        else:
            return answer
        raise failure  # outside of the except: the first error may have the key, or the customer's address, in it

    async def aclose(self) -> None:
        """Does not wait for calls that are under way: each ends by its time limit."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client._requests_session.close()


def _download(url: str, timeout: float) -> bytes:
    with requests.get(url, timeout=timeout, stream=True) as response:
        response.raise_for_status()
        body = b""
        for part in response.iter_content(65_536):
            body += part
            if len(body) > _MOST_BYTES:
                raise ValueError("more than any label")
        return body


def to_error(error: Exception, timeout: float) -> OrderError:
    """EasyPost's errors as ours. What was sent and not clearly answered may have been done."""
    match error:
        case TimeoutError() | asyncio.TimeoutError() | requests.exceptions.Timeout():
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
