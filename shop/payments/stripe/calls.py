"""One exchange with Stripe, by its own SDK over one HTTPX pool: a time limit, and nothing but typed errors.

The SDK's own retries are off, because ours can be seen and know the journal.
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
"""More than any honest answer."""
_MOST_KEYS = 4
T = TypeVar("T")
Ask = Callable[[stripe.StripeClient], Awaitable[Any]]


class _Transport(stripe.HTTPClient):
    """What the SDK sends goes over this pool, which reads no more than is sensible, and leaves errors as they are."""

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
                        raise PaymentGatewayError(BAD_ANSWER, "Stripe answered more than any honest answer", retryable=True)
                return bytes(body), response.status_code, response.headers
        except (ValueError, httpx.InvalidURL) as error:  # whatever it is called: an answer may have caused it, so it is no clear no
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
    """At most `concurrency` connections, made in the event loop that first needs them. No call takes longer than `timeout_seconds` from
    the moment it has its turn."""

    def __init__(self, url: str, api_key: str, timeout_seconds: float, concurrency: int) -> None:
        self._url, self._key, self._timeout, self._concurrency = url.rstrip("/"), api_key, timeout_seconds, concurrency
        self._pool: _Pool | None = None

    async def __call__(self, ask: Ask, *, key: str | None = None) -> dict[str, Any]:
        """The answer, whatever it is. `key`: the idempotency key that `ask` sends. Raises what a `PaymentGateway` may raise."""
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
        except Exception as error:  # noqa: BLE001  (a broken connection has many names, and rubbish breaks the SDK in as many ways)
            failure = from_transport(error)
        raise failure  # outside of the except: the first error has the answer's body, or even the key's header, in it

    async def insist(self, ask: Callable[[str], Awaitable[T]], key: str) -> T:
        """Asks under this key, and under the next one while Stripe only repeats a failure that it has stored."""
        for _ in range(_MOST_KEYS):
            try:
                return await ask(key)
            except StoredFailure as stored:
                failure, key = stored, stored.next_key
        raise failure

    def _open(self) -> _Pool:
        loop = asyncio.get_running_loop()
        if self._pool is None or self._pool.loop is not loop:
            # A pool belongs to its loop; one whose loop is gone cannot even be closed. Only https may need certificates (100 ms to load)
            # or go through the proxy that the environment names.
            plain = self._url.startswith("http:")
            http = httpx.AsyncClient(
                verify=False if plain else httpx.create_ssl_context(),
                trust_env=not plain,
                timeout=httpx.Timeout(self._timeout, connect=self._timeout / 2, pool=None),
                limits=httpx.Limits(max_connections=self._concurrency, keepalive_expiry=5),
            )
            client = stripe.StripeClient(self._key, base_addresses={"api": self._url}, http_client=_Transport(http), max_network_retries=0)
            self._pool = _Pool(loop, http, client, asyncio.Semaphore(self._concurrency))
        return self._pool

    async def aclose(self) -> None:
        """Closes the connections; the next call makes new ones."""
        pool, self._pool = self._pool, None
        if pool is not None and pool.loop is asyncio.get_running_loop():
            with suppress(Exception):  # nothing is under way any more that could be harmed
                await pool.http.aclose()
