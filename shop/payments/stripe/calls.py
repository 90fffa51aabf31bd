"""Calls to Stripe with its SDK over one HTTPX pool, with a timeout and typed errors.

The SDK's own retries are off: the saga's retries are visible and use the journal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

from shop.payments.errors import BAD_ANSWER, PaymentError, PaymentGatewayError, PaymentGatewayTimeout
from shop.payments.stripe.errors import StoredFailure, from_transport, to_error
from shop.payments.stripe.sdk import stripe

_MOST_BYTES = 8_000_000
"""Limits the size of an answer; valid ones are smaller."""
_MOST_KEYS = 4
"""Limits the idempotency keys that one call tries in turn."""
T = TypeVar("T")
Ask = Callable[[stripe.StripeClient], Awaitable[Any]]


class _Transport(stripe.HTTPClient):
    """HTTP client of the SDK on an HTTPX pool. Limits the size of answers, and raises HTTPX's errors
    unchanged."""

    name = "httpx"

    def __init__(self, client: httpx.AsyncClient) -> None:
        super().__init__()
        self._client = client

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        request = self._client.build_request(method, url, headers=headers, content=post_data or None)
        try:
            async with aclosing(await self._client.send(request, stream=True)) as response:
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > _MOST_BYTES:
                        raise PaymentGatewayError(
                            BAD_ANSWER, "Stripe answered with a body that is too large", retryable=True
                        )
                return bytes(body), response.status_code, response.headers
        except (ValueError, httpx.InvalidURL) as error:
            # An answer may have caused it, so it is not a definite refusal.
            raise httpx.RemoteProtocolError(type(error).__name__) from error

    async def close_async(self) -> None:
        await self._client.aclose()


@dataclass(frozen=True, slots=True)
class _Pool:
    loop: asyncio.AbstractEventLoop
    http: httpx.AsyncClient
    stripe: stripe.StripeClient
    free: asyncio.Semaphore


class StripeCalls:
    """Pool of at most `concurrency` connections, created in the event loop that first needs it.
    `timeout_seconds` limits each call, without the wait for a free connection."""

    def __init__(self, url: str, api_key: str, timeout_seconds: float, concurrency: int) -> None:
        self._url, self._key, self._timeout, self._concurrency = (
            url.rstrip("/"),
            api_key,
            timeout_seconds,
            concurrency,
        )
        self._pool: _Pool | None = None

    async def __call__(self, ask: Ask, *, key: str | None = None) -> dict[str, Any]:
        """Returns the answer. `key` is the idempotency key that `ask` sends. Raises what a `PaymentGateway`
        raises."""
        failure: PaymentError
        try:
            pool = self._open()
            async with pool.free, asyncio.timeout(self._timeout):
                answer: dict[str, Any] = (await ask(pool.stripe)).to_dict()
                return answer
        except PaymentError as error:
            failure = error
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
            failure = PaymentGatewayTimeout(f"Stripe gave no answer within {self._timeout:g} s")
        except stripe.StripeError as error:
            failure = to_error(error, key)
        except Exception as error:  # noqa: BLE001  (broken connections and invalid answers raise many exceptions in the SDK)
            failure = from_transport(error)
        # outside of the except: the first error contains the answer's body, or even the API key's header
        raise failure

    async def insist(self, ask: Callable[[str], Awaitable[T]], key: str) -> T:
        """Calls `ask` with this key, and with the next one while Stripe only repeats a stored failure."""
        for _ in range(_MOST_KEYS):
            try:
                return await ask(key)
            except StoredFailure as stored:
                failure, key = stored, stored.next_key
        raise failure

    def _open(self) -> _Pool:
        loop = asyncio.get_running_loop()
        if self._pool is None or self._pool.loop is not loop:
            # A pool belongs to its loop. If the loop has ended, its pool cannot be closed any more.
            # Certificates (100 ms to load) and the proxy from the environment are used for https only.
            plain = self._url.startswith("http:")
            http = httpx.AsyncClient(
                verify=False if plain else httpx.create_ssl_context(),
                trust_env=not plain,
                timeout=httpx.Timeout(self._timeout, connect=self._timeout / 2, pool=None),
                limits=httpx.Limits(max_connections=self._concurrency, keepalive_expiry=5),
            )
            client = stripe.StripeClient(
                self._key,
                base_addresses={"api": self._url},
                http_client=_Transport(http),
                max_network_retries=0,
            )
            self._pool = _Pool(loop, http, client, asyncio.Semaphore(self._concurrency))
        return self._pool

    async def aclose(self) -> None:
        """Closes the connections; the next call opens new ones."""
        pool, self._pool = self._pool, None
        if pool is not None and pool.loop is asyncio.get_running_loop():
            with suppress(Exception):  # no request is in progress
                await pool.http.aclose()
