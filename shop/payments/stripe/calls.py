"""Calls to Stripe with its SDK over one HTTPX pool, with a timeout and typed errors.

The SDK's own retries are off: the saga's retries are visible and use the journal. Messages of errors contain
no request data and no credentials.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from http import HTTPStatus
from typing import Any, TypeVar

import httpx

from shop.payments.errors import (
    PaymentDeclined,
    PaymentError,
    PaymentGatewayError,
    PaymentGatewayTimeout,
    PaymentKeyRefused,
    bad_answer,
)
from shop.payments.stripe.sdk import stripe
from shop.text.sanitize import printable

_CODE = re.compile(r"[a-z0-9_]{1,64}")
_LONGEST_WAIT = 300.0
"""Limits the `Retry-After` of Stripe or of a proxy, in seconds."""
_KEY_SECONDS = 60.0
"""Pause of an order before the next attempt after the API key was not accepted."""
_MAY_PASS = frozenset({"idempotency_key_in_use", "lock_timeout", "rate_limit"})


class StoredFailure(PaymentGatewayError):
    """Stripe repeated a stored failure. It stores the answer to an idempotency key, even an error 500, and
    repeats it for a day. A retry needs `next_key`, which consists of the first key and the failed request's
    id."""

    def __init__(self, error_code: str, error_message: str, *, next_key: str) -> None:
        self.next_key = next_key
        super().__init__(error_code, error_message, retryable=True)


class NotAccepted(PaymentGatewayError):
    """The request is invalid, or does not fit the object's current state, such as a confirmation of a payment
    that has succeeded. `next_key`: like that of `StoredFailure`, if Stripe only repeated an answer about an
    earlier state."""

    next_key: str | None = None


def to_error(error: stripe.StripeError, key: str | None) -> PaymentError:
    """Returns the typed error for an error answer. `key` is the idempotency key that was sent."""
    headers: Mapping[str, str] = error.headers or {}
    status, (code, message) = error.http_status or 0, _code_and_message(error)
    if status < 400:
        return bad_answer("Stripe's answer could not be interpreted")
    if isinstance(error, stripe.AuthenticationError):
        return PaymentKeyRefused(
            "Stripe does not accept the API key: set STRIPE_API_KEY to a valid one", _KEY_SECONDS
        )
    if isinstance(error, stripe.PermissionError):
        message = "the key in STRIPE_API_KEY has no permission for this request: grant it at Stripe"
        return PaymentGatewayError("permission", message, retryable=False)
    if status == HTTPStatus.PAYMENT_REQUIRED:
        if code is None:  # only a clear refusal is final
            return bad_answer("Stripe's refusal could not be interpreted")
        declined = getattr(error.error, "decline_code", None)
        return PaymentDeclined(
            declined if isinstance(declined, str) and _CODE.fullmatch(declined) else code, message
        )
    if isinstance(error, stripe.IdempotencyError):
        return PaymentGatewayError(
            "idempotency_conflict",
            "this idempotency key was used for a different request at Stripe",
            retryable=False,
        )
    if isinstance(error, stripe.InvalidRequestError) and code not in _MAY_PASS:
        refused = NotAccepted(code or f"http_{status}", message, retryable=False)
        refused.next_key = _next_key(key, headers)
        return refused
    failed = code or ("rate_limit" if isinstance(error, stripe.RateLimitError) else f"http_{status}")
    if status >= 500 and (next_key := _next_key(key, headers)) is not None:
        return StoredFailure(failed, message, next_key=next_key)
    may_pass = failed in _MAY_PASS or status in {409, 429} or not 400 <= status < 500
    wait = _retry_after(headers) if may_pass else None
    return PaymentGatewayError(failed, message, retryable=may_pass, retry_after=wait)


def from_transport(error: Exception) -> PaymentError:
    """Returns the typed error for a request without an answer, or without one in HTTP."""
    if isinstance(
        error, UnicodeEncodeError | httpx.InvalidURL | httpx.UnsupportedProtocol | httpx.LocalProtocolError
    ):
        return PaymentGatewayError(
            "invalid_request", f"cannot be sent: {type(error).__name__}", retryable=False
        )
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return PaymentGatewayError("unreachable", "Stripe cannot be reached", retryable=True)
    if isinstance(error, httpx.RemoteProtocolError | httpx.DecodingError):
        return bad_answer("Stripe did not answer in HTTP")
    if isinstance(error, httpx.HTTPError | OSError):
        return PaymentGatewayError(
            "connection_lost", f"the connection broke: {type(error).__name__}", retryable=True
        )
    return bad_answer(f"Stripe's answer could not be interpreted: {type(error).__name__}")


def _code_and_message(error: stripe.StripeError) -> tuple[str | None, str]:
    """Returns the answer's code and message, or defaults for what it does not contain."""
    body = error.json_body
    details = body.get("error") if isinstance(body, dict) else None
    code, message = (
        (details.get("code"), details.get("message")) if isinstance(details, dict) else (None, None)
    )
    shown = (
        printable(message) if isinstance(message, str) and message else f"Stripe answered {error.http_status}"
    )
    return code if isinstance(code, str) and _CODE.fullmatch(code) else None, shown


def _next_key(key: str | None, headers: Mapping[str, str]) -> str | None:
    first = headers.get("original-request", "")
    if (
        key is None
        or headers.get("idempotent-replayed") != "true"
        or not re.fullmatch(r"[A-Za-z0-9_]{1,64}", first)
    ):
        return None
    made = f"{key}-{first}"
    return made if len(made) <= 255 else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    seconds = headers.get("retry-after", "")
    return (
        min(float(seconds), _LONGEST_WAIT) if re.fullmatch(r"[0-9]{1,9}", seconds) and int(seconds) else None
    )


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
                        raise bad_answer("Stripe answered with a body that is too large")
                return bytes(body), response.status_code, response.headers
        except (ValueError, httpx.InvalidURL) as error:
            # An answer may have caused it, so it is not a definite refusal.
            raise httpx.RemoteProtocolError(type(error).__name__) from error

    async def close_async(self) -> None:
        await self._client.aclose()


class StripeCalls:
    """Pool of at most `concurrency` connections, for one event loop. `timeout_seconds` limits each call,
    without the wait for a free connection."""

    def __init__(self, url: str, api_key: str, timeout_seconds: float, concurrency: int) -> None:
        self._url, self._key, self._timeout = url.rstrip("/"), api_key, timeout_seconds
        self._concurrency, self._free = concurrency, asyncio.Semaphore(concurrency)
        self._client: stripe.StripeClient | None = None

    async def __call__(self, ask: Ask, *, key: str | None = None) -> dict[str, Any]:
        """Returns the answer. `key` is the idempotency key that `ask` sends. Raises what a `PaymentGateway`
        raises."""
        failure: PaymentError
        try:
            client = self._open()
            async with self._free, asyncio.timeout(self._timeout):
                answer: dict[str, Any] = (await ask(client)).to_dict()
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

    def _open(self) -> stripe.StripeClient:
        if self._client is None:
            # Certificates (100 ms to load) and the proxy from the environment are used for https only.
            plain = self._url.startswith("http:")
            self._http = httpx.AsyncClient(
                verify=False if plain else httpx.create_ssl_context(),
                trust_env=not plain,
                timeout=httpx.Timeout(self._timeout, connect=self._timeout / 2, pool=None),
                limits=httpx.Limits(max_connections=self._concurrency, keepalive_expiry=5),
            )
            self._client = stripe.StripeClient(
                self._key,
                base_addresses={"api": self._url},
                http_client=_Transport(self._http),
                max_network_retries=0,
            )
        return self._client

    async def aclose(self) -> None:
        """Closes the connections; the next call opens new ones."""
        if self._client is not None:
            self._client = None
            with suppress(Exception):  # no request is in progress
                await self._http.aclose()
