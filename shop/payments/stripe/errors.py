"""What can go wrong at Stripe, as the errors of `shop.payments.errors`. No text of a request or of a credential gets into a message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus

import httpx

from shop.payments.errors import BAD_ANSWER, PaymentDeclined, PaymentError, PaymentGatewayError, PaymentKeyRefused
from shop.payments.stripe.sdk import stripe
from shop.text.sanitize import said

_CODE = re.compile(r"[a-z0-9_]{1,64}")
_LONGEST_WAIT = 300.0
"""Whatever Stripe, or somebody in between, says."""
_KEY_SECONDS = 60.0
"""So long an order waits before it is tried whether the key has been set anew."""
_MAY_PASS = frozenset({"idempotency_key_in_use", "lock_timeout", "rate_limit"})


class StoredFailure(PaymentGatewayError):
    """Stripe keeps the answer to an idempotency key, an error 500 too, and repeats it for a day. What is asked again under this key
    never gets another answer; under `next_key`, which is made of the first one and the failed request's id, it does."""

    def __init__(self, error_code: str, error_message: str, *, next_key: str) -> None:
        self.next_key = next_key
        super().__init__(error_code, error_message, retryable=True)


class NotAccepted(PaymentGatewayError):
    """The request does not fit the object as it is now, such as a confirmation of a payment that has succeeded; or it is wrong.
    `next_key`: as with `StoredFailure`, if Stripe only repeats what it said when the object was another."""

    next_key: str | None = None


def to_error(error: stripe.StripeError, key: str | None) -> PaymentError:
    """The typed error for an error answer. `key`: the idempotency key that was sent."""
    headers: Mapping[str, str] = error.headers or {}
    status, (code, message) = error.http_status or 0, _told(error)
    if status < 400:
        return PaymentGatewayError(BAD_ANSWER, "Stripe's answer makes no sense", retryable=True)
    if isinstance(error, stripe.AuthenticationError):
        return PaymentKeyRefused("Stripe does not accept the key: STRIPE_API_KEY has to be set anew", _KEY_SECONDS)
    if isinstance(error, stripe.PermissionError):
        return PaymentGatewayError("permission", "the key in STRIPE_API_KEY may not do this: give it the rights at Stripe", retryable=False)
    if status == HTTPStatus.PAYMENT_REQUIRED:
        if code is None:  # a "no" for good has to be a clear one
            return PaymentGatewayError(BAD_ANSWER, "Stripe's refusal makes no sense", retryable=True)
        declined = getattr(error.error, "decline_code", None)
        return PaymentDeclined(declined if isinstance(declined, str) and _CODE.fullmatch(declined) else code, message)
    if isinstance(error, stripe.IdempotencyError):
        return PaymentGatewayError("idempotency_conflict", "Stripe knows this idempotency key with another request", retryable=False)
    if isinstance(error, stripe.InvalidRequestError) and code not in _MAY_PASS:
        refused = NotAccepted(code or f"http_{status}", message, retryable=False)
        refused.next_key = _next_key(key, headers)
        return refused
    failed = code or ("rate_limit" if isinstance(error, stripe.RateLimitError) else f"http_{status}")
    if status >= 500 and (next_key := _next_key(key, headers)) is not None:
        return StoredFailure(failed, message, next_key=next_key)
    may_pass = failed in _MAY_PASS or status in {409, 429} or not 400 <= status < 500
    made = PaymentGatewayError(failed, message, retryable=may_pass)
    made.retry_after = _wait(headers) if may_pass else None
    return made


def from_transport(error: Exception) -> PaymentError:
    """The typed error when there was no answer at all, or none in HTTP."""
    if isinstance(error, UnicodeEncodeError | httpx.InvalidURL | httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return PaymentGatewayError("invalid_request", f"cannot be sent: {type(error).__name__}", retryable=False)
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return PaymentGatewayError("unreachable", "Stripe cannot be reached", retryable=True)
    if isinstance(error, httpx.RemoteProtocolError | httpx.DecodingError):
        return PaymentGatewayError(BAD_ANSWER, "Stripe did not answer in HTTP", retryable=True)
    if isinstance(error, httpx.HTTPError | OSError):
        return PaymentGatewayError("connection_lost", f"the connection broke: {type(error).__name__}", retryable=True)
    return PaymentGatewayError(BAD_ANSWER, f"Stripe's answer makes no sense: {type(error).__name__}", retryable=True)


def _told(error: stripe.StripeError) -> tuple[str | None, str]:
    """Code and message, as far as they are such."""
    body = error.json_body
    told = body.get("error") if isinstance(body, dict) else None
    code, message = (told.get("code"), told.get("message")) if isinstance(told, dict) else (None, None)
    shown = said(message) if isinstance(message, str) and message else f"Stripe answered {error.http_status}"
    return code if isinstance(code, str) and _CODE.fullmatch(code) else None, shown


def _next_key(key: str | None, headers: Mapping[str, str]) -> str | None:
    first = headers.get("original-request", "")
    if key is None or headers.get("idempotent-replayed") != "true" or not re.fullmatch(r"[A-Za-z0-9_]{1,64}", first):
        return None
    made = f"{key}-{first}"
    return made if len(made) <= 255 else None


def _wait(headers: Mapping[str, str]) -> float | None:
    told = headers.get("retry-after", "")
    return min(float(told), _LONGEST_WAIT) if re.fullmatch(r"[0-9]{1,9}", told) and int(told) else None
